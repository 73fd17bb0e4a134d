"Turn pip's installation report (standard input) into constraints.txt (standard output)."
import json, re, sys

ours = re.compile('idkl-nb$|nvidia-|cuda-|triton$')   # what torch pins by itself, and this project
rows = {(re.sub('[-_.]+', '-', item['metadata']['name'].lower()), item['metadata']['version']) for item in json.load(sys.stdin)['install']}
print('# Versions that the test suite passed with; one file for Python 3.10 to 3.13. `make constraints` writes it anew.')
for name, version in sorted(rows):
    if not ours.match(name): print(f'{name}=={version}')
