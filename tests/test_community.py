"Forms, conduct, citation and container are in step with the commands that they speak of."

import re
from pathlib import Path

import pytest
import yaml

from idkl_nb.scoring import PROTOCOLS

root = Path(__file__).resolve().parents[1]
FORMS = {
    path.stem: yaml.safe_load(path.read_text(encoding='utf-8'))
    for path in sorted((root / '.github' / 'ISSUE_TEMPLATE').glob('[!c]*.yml'))
}
docker = (root / 'Dockerfile').read_text(encoding='utf-8')


def fields(form):
    return {part['id']: part for part in FORMS[form]['body'] if 'id' in part}


@pytest.mark.parametrize('form', FORMS)
def test_a_form_is_one_that_github_takes(form):
    assert {'name', 'description', 'body'} <= set(FORMS[form])
    ids = [part['id'] for part in FORMS[form]['body'] if 'id' in part]
    assert len(ids) == len(set(ids)) >= 3
    for part in FORMS[form]['body']:
        assert part['type'] in ('markdown', 'input', 'textarea', 'dropdown')
        assert 'value' in part['attributes'] or 'label' in part['attributes']


def test_forms_ask_for_what_a_fault_is_found_by():
    assert set(FORMS) == {'wrong_score', 'error', 'dataset_or_rival'}
    score, error = fields('wrong_score'), fields('error')
    named = score['protocol']['attributes']['options']
    assert [name for name in named if not name.startswith('another')] == list(PROTOCOLS)
    for field in (score['features'], error['check'], error['command'], error['output']):
        assert field['validations']['required']
    assert 'idkl-check' in error['check']['attributes']['label']


def test_links_between_pages_of_the_community_lead_somewhere():
    text = (root / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    for heading in ('## Contribute a dataset', '## Contribute a rival', 'CODE_OF_CONDUCT.md'):
        assert heading in text
    anchor = re.search(r'CONTRIBUTING\.md#([\w-]+)', str(FORMS['dataset_or_rival']))[1]
    assert f'## {anchor.replace("-", " ").capitalize()}' in text
    conduct = (root / 'CODE_OF_CONDUCT.md').read_text(encoding='utf-8')
    assert 'in private' in conduct and 'identifying people' in conduct


def test_the_citation_explains_its_doi():
    text = (root / 'CITATION.cff').read_text(encoding='utf-8')
    assert 'doi' not in yaml.safe_load(text)  # until an archive has given one
    assert '# doi: ' in text and 'Zenodo' in (root / 'CONTRIBUTING.md').read_text(encoding='utf-8')


def test_the_container_runs_the_commands_of_the_readme():
    "It is not built here: its lines are compared with README and Makefile"
    readme = (root / 'README.md').read_text(encoding='utf-8')
    assert re.search(r'^CMD (.*)$', docker, re.M)[1] == '["make", "run"]'
    for command in ('make run', 'make test'):
        assert command in readme and re.search(
            rf'docker run .*{command}|# {command}$', docker, re.M
        )
    assert 'RUN make setup' in docker and 'ARG TORCH=cpu' in docker

    # what it passes on is what the Makefile knows
    makefile = (root / 'Makefile').read_text(encoding='utf-8')
    for name in set(re.findall(r'(TORCH|IDKL_RUN)=', docker)):
        assert f'\n{name} ?=' in makefile
    python = re.search(r'ARG PYTHON=3\.(\d+)', docker)[1]
    settings = (root / 'settings.ini').read_text(encoding='utf-8')
    oldest, newest = (
        int(re.search(rf'{end}_python = 3\.(\d+)', settings)[1]) for end in ('min', 'max')
    )
    assert oldest <= int(python) <= newest
    assert {'.venv', 'runs'} <= set((root / '.dockerignore').read_text().splitlines())
