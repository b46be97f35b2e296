from mmscale import paths


def test_config_root(tmp_path, monkeypatch, repo):
    assert paths.config_root() == repo / 'configs'
    package = tmp_path / 'site-packages' / 'mmscale'
    monkeypatch.setattr(paths, '__file__', str(package / 'paths.py'))
    assert paths.config_root() == package / '.mim' / 'configs'
