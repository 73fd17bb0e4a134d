"Take widget views and saved widget state out of notebooks; the picture beside them stays"

import json
import sys

for file in sys.argv[1:]:
    text = open(file, encoding='utf-8').read()
    nb = json.loads(text)
    nb['metadata'].pop('widgets', None)
    for cell in nb['cells']:
        for out in cell.get('outputs', []):
            for part in ('data', 'metadata'):
                out.get(part, {}).pop('application/vnd.jupyter.widget-view+json', None)
    made = json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'
    if made != text:
        open(file, 'w', encoding='utf-8').write(made)
