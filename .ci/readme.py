"Write README.md from nbs/index.ipynb: its Markdown cells, with links as they are from the top folder. `--check` only compares."
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]

def readme()->str:
    cells = json.loads((root/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n\n'.join(''.join(cell['source']).strip() for cell in cells if cell['cell_type'] == 'markdown')
    text = re.sub(r'\]\((?!https?:|#)([^)]+)\)', r'](nbs/\1)', text)      # links and pictures lie in nbs/
    return '<!-- Written by `make readme` from nbs/index.ipynb: change it there. -->\n\n' + text.replace('](nbs/../', '](') + '\n'

if __name__ == '__main__':
    if '--check' in sys.argv: sys.exit(readme() != (root/'README.md').read_text(encoding='utf-8') and 'README.md is not in step with nbs/index.ipynb: run make readme')
    (root/'README.md').write_text(readme(), encoding='utf-8')
