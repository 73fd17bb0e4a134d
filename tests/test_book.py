"""The form of the book: how long a page may be, and what each chapter has."""

import re
from pathlib import Path

import nbformat
import pytest

from idkl_nb.diagram import BOXES
from idkl_nb.exercises import SOLUTION, TRIED, Lesson
from idkl_nb.running_table import ADDED

folder = Path(__file__).resolve().parents[1] / 'nbs'
TOUR, *CHAPTERS = sorted(folder.glob('[0-9][0-9]_*.ipynb'))
METHOD = [path for path in CHAPTERS if '04' <= path.name[:2] <= '12']
WORDS, CODE_LINES, CELL_LINES, HOME_WORDS = 1500, 250, 20, 600
TRIES = re.compile(r'print\(\s*verdict\(')
LEVELS = r'(easy|medium|hard), \d+ minutes'


def name(path):
    return path.stem


def cells(path):
    return nbformat.read(path, 4).cells


def markdown(path):
    return [cell.source for cell in cells(path) if cell.cell_type == 'markdown']


def text(path):
    return '\n\n'.join(markdown(path))


def words(path):
    "Of the prose: links count by their text, formulas as one, comments and pictures not"
    prose = re.sub(r'<!--.*?-->|!?\[!\[.*?\)\]\(.*?\)|!\[.*?\]\(.*?\)', '', text(path), flags=re.S)
    prose = re.sub(r'\]\([^)]*\)', ']', prose)
    prose = re.sub(r'\$\$.*?\$\$|\$[^$]*\$|```.*?```', ' formula ', prose, flags=re.S)
    return len(re.findall(r"[^\W_][\w'’.-]*", prose))


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip() and not line.startswith('#|')]


def before_the_exercises(path):
    "The cells up to the heading of the exercises, without the one that every page has"
    whole = [cell for cell in cells(path) if "find_spec('idkl_nb')" not in cell.source]
    ends = [n for n, cell in enumerate(whole) if cell.source.startswith('## Exercises')]
    return whole[: ends[0]] if ends else whole


def printed(cell):
    return ''.join(''.join(out.get('text', '')) for out in cell.outputs)


@pytest.mark.parametrize('path', [TOUR, *CHAPTERS], ids=name)
def test_a_page_is_short(path):
    assert words(path) <= WORDS
    code = [cell for cell in before_the_exercises(path) if cell.cell_type == 'code']
    assert sum(len(lines(cell)) for cell in code) <= CODE_LINES


@pytest.mark.parametrize('path', [TOUR, *CHAPTERS], ids=name)
def test_a_cell_is_short(path):
    long = [
        cell for cell in cells(path) if cell.cell_type == 'code' and len(lines(cell)) > CELL_LINES
    ]
    assert not long, f'{len(lines(long[0]))} lines: {lines(long[0])[:2]}'


def test_the_home_page_is_short():
    assert words(folder / 'index.ipynb') <= HOME_WORDS


@pytest.mark.parametrize('path', [TOUR, *CHAPTERS], ids=name)
def test_a_page_says_what_it_takes_and_asks_one_question(path):
    head = markdown(path)[1]
    assert re.search(r'^\*\d+ minutes to read, \d+ s to run\. Before: .+\*$', head, re.M), head
    assert re.search(r'\*\*[^*]+\?\*\*', text(path)), 'no question in bold'


def test_the_minutes_are_those_of_the_words():
    for path in (TOUR, *CHAPTERS):
        minutes = int(re.search(r'\*(\d+) minutes to read', text(path))[1])
        code = sum(len(lines(cell)) for cell in cells(path) if cell.cell_type == 'code')
        expected = words(path) / 200 + code / 25
        assert 0.6 * expected <= minutes <= 1.6 * expected, (path.name, minutes, expected)


@pytest.mark.parametrize('path', METHOD, ids=name)
def test_the_diagram_is_lit(path):
    part = path.stem[3:]
    parts = {chapter for box in BOXES.values() for chapter in box.lit} | {'model'}
    part = part if part in parts else 'model'  # the training is of all of it
    code = [cell for cell in cells(path) if cell.cell_type == 'code']
    assert any(f"architecture('{part}')" in cell.source for cell in code)


@pytest.mark.parametrize('chapter', ADDED)
def test_what_it_adds(chapter):
    path = next(path for path in CHAPTERS if path.stem[3:] == chapter)
    assert any(f"so_far('{chapter}')" in cell.source for cell in cells(path))


@pytest.mark.parametrize('path', CHAPTERS, ids=name)
def test_three_exercises_with_stub_check_and_solution(path):
    whole = cells(path)
    heads = [cell.source for cell in whole if re.match(r'\*\*\d\*\* \(', cell.source)]
    assert len(heads) == 3
    assert all(re.match(rf'\*\*{n}\*\* \({LEVELS}\)\. ', s) for n, s in enumerate(heads, 1)), heads

    tries = [cell for cell in whole if TRIES.search(cell.source)]
    said = [printed(cell) for cell in tries]
    assert len(said) == 3 and all(re.match(r'Not (written )?yet.*Hint: \w', s) for s in said), said
    assert sum(bool(SOLUTION.search(cell.source)) for cell in whole) >= 3
    assert sum(bool(TRIED.search(cell.source)) for cell in whole) == 3


def quizzes():
    return [
        (path.stem, quiz)
        for path in (TOUR, *CHAPTERS)
        for quiz in re.findall(r'\*\*Quiz\.\*\*.*?</details>', text(path), re.S)
    ]


def test_twelve_quizzes_of_three_answers():
    assert len(quizzes()) >= 12
    form = r'\*\*Quiz\.\*\* .*\?\s.*^a\. .*^b\. .*^c\. .*<summary>Answer</summary>\s+[abc]\. \S'
    for page, quiz in quizzes():
        assert re.match(form, quiz, re.S | re.M), (page, quiz)


def test_no_notebook_writes_the_package():
    for path in sorted(folder.rglob('[!.]*.ipynb')):
        assert not any('nbdev_export()' in cell.source for cell in cells(path)), path.name


def test_a_student_gets_no_solution(tmp_path):
    for path in CHAPTERS:
        student = nbformat.read(Lesson(path, 'student', tmp_path).run(), 4)
        source = '\n'.join(cell.source for cell in student.cells)
        assert '_solution' not in source and '<summary>' not in source, path.name
        assert len(TRIES.findall(source)) == 3

        teacher = nbformat.read(Lesson(path, 'teacher', tmp_path).run(), 4)
        assert len(teacher.cells) == len(cells(path))
        assert not any(SOLUTION.search(cell.source) for cell in teacher.cells)
