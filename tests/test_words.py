"""The words of the prose: spelling, and turns that a reader should not meet."""

import re
from pathlib import Path

import codespell_lib
import nbformat
import pytest

root = Path(__file__).resolve().parents[1]
PAGES = [*sorted((root / 'nbs').rglob('[!.]*.ipynb')), root / 'README.md', root / 'CONTRIBUTING.md']
OUR_WORDS = ('docments', 'carin')  # fastcore's comments on arguments, and an author

LINK = 'a link to the page, with its name'
BECAUSE = '"because", "since", or a second sentence'
MUST = '"must", "should" or "is to"'
EXACT = 'the number'
ARRANGED = 'the statement that the riddle hides'
FORBIDDEN = {  # pattern: what to write instead
    r'\b(next|last|previous|earlier) (chapters?|notebooks?|page)\b': LINK,
    r'\bfor so (they|it|we|you)\b': BECAUSE,
    r'[,;] for (it|they|he|she|we|you|there|this is|that is)\b': BECAUSE,
    r'\b(people|persons?|those|one) whom\b': '"people that …"',
    r'\bshall\b': MUST,
    r'\bleft away\b': '"left out"',
    r'\bhang(s)? on\b': '"depend on"',
    r'\bstands? about\b': ARRANGED,
    r'\bWho of the\b': ARRANGED,
    r'\b(half )?a dozen\b': EXACT,
    r'\bsome (two|three|four|five|six|seven|eight|nine|ten|minutes|seconds|hours)\b': EXACT,
    r'\bmuch (cheaper|faster|slower|quicker)\b': 'by how much',
    r'\boff in the paper\b': '"not mentioned in the paper"',
    r'\b(hence|thereby|therein|thereof|whereby|lest|whilst)\b': 'an everyday word',
}


def text(page):
    "The Markdown of a page"
    if page.suffix == '.md':
        return page.read_text(encoding='utf-8')
    cells = nbformat.read(page, 4).cells
    return '\n\n'.join(cell.source for cell in cells if cell.cell_type == 'markdown')


def name(page):
    return str(page.relative_to(root))


def turns(prose):
    "What FORBIDDEN finds: the place in its context, and what to write instead"
    prose = re.sub(r'```.*?```|`[^`\n]*`', '`…`', prose, flags=re.S)  # code is no prose
    for pattern, instead in FORBIDDEN.items():
        for found in re.finditer(pattern, prose, re.I):
            context = prose[max(0, found.start() - 40) : found.end() + 30].replace('\n', ' ')
            yield f'"{found[0]}" in "… {context} …": write {instead}'


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_the_words_are_those_of_today(page):
    found = list(turns(text(page)))
    assert not found, f'{name(page)}:\n' + '\n'.join(found)


def test_spelling(tmp_path, capsys):
    "Misspellings that codespell knows; a word of ours that it takes for one goes to OUR_WORDS"
    for page in PAGES:
        (tmp_path / name(page).replace('/', '+')).write_text(text(page), encoding='utf-8')
    code = codespell_lib.main('--ignore-words-list', ','.join(OUR_WORDS), str(tmp_path))
    said = capsys.readouterr()
    assert code == 0, (said.out + said.err).replace(f'{tmp_path}/', '').replace('+', '/')


def test_both_checks_see_something(tmp_path, capsys):
    assert len(PAGES) > 90
    prose = 'Who of the night is the person of the day? It is left away, for so they are compared.'
    assert len(list(turns(prose))) == 3
    assert not list(turns('See `next chapter` and what is left, for one image and three people.'))

    (tmp_path / 'page.md').write_text('A modle of teh world')
    assert codespell_lib.main(str(tmp_path)) != 0
    assert 'teh ==> the' in capsys.readouterr().out
