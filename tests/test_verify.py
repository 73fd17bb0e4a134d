"Packaged networks have the scores of their runs."

import shutil

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from idkl_nb.verify import TRAINED, unpack, verify


def about_of(file):
    with safe_open(file, 'pt') as opened:
        return opened.metadata()


def test_the_scores_are_those_of_the_runs_and_a_changed_network_is_noticed(tmp_path):
    table = verify({'IDKL': TRAINED['IDKL']})
    assert (table['rank-1'] > 80).all()

    changed = shutil.copy(TRAINED['L_b'], tmp_path / 'changed.safetensors')
    state = load_file(changed)
    state['neck.norm.weight'][:64] = 9
    save_file(state, changed, about_of(changed))
    with pytest.raises(ValueError, match='changed.safetensors: scores are not those of its run'):
        verify({'L_b': changed})


def test_a_packaged_network_says_how_it_was_trained():
    for method, file in TRAINED.items():
        _, config, scores = unpack(file)
        assert (config.model.lambda_mdr > 0) == (method == 'IDKL')
        assert len(scores) == 2
        assert 'no real person' in about_of(file)['card']
