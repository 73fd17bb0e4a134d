"Package metadata: everything that can change is read from settings.ini."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=['='])
config.read(Path(__file__).parent / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
viz = cfg['viz_requirements'].split()
notebooks = viz + cfg['notebooks_requirements'].split()
more = {
    name: cfg[f'{name}_requirements'].split()
    for name in ('faiss', 'export', 'tables', 'timm', 'hub', 'trackers')
}
chapters = (
    viz + more['faiss'] + cfg['chapters_requirements'].split()
)  # what runs a chapter where JupyterLab is there already: Colab, Binder
dev = notebooks + chapters + sum(more.values(), []) + cfg['dev_requirements'].split()

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    project_urls=dict(
        Documentation=cfg['doc_host'] + cfg['doc_baseurl'],
        Changelog=cfg['git_url'] + '/blob/' + cfg['branch'] + '/CHANGELOG.md',
        Issues=cfg['git_url'] + '/issues',
    ),
    packages=find_packages(include=['idkl_nb', 'idkl_nb.*']),
    package_data=dict(idkl_nb=['py.typed', 'weights/*.safetensors', 'weights/*.md', 'modules/*']),
    zip_safe=False,
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require=dict(
        viz=viz,
        notebooks=notebooks,
        **more,
        chapters=chapters,
        dev=dev,
        browser=cfg['browser_requirements'].split(),
    ),
    entry_points=dict(
        nbdev=[f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
        console_scripts=[
            f'idkl-{name}=idkl_nb.commands:{name}'
            for name in ('train', 'embed', 'evaluate', 'check', 'export', 'publish', 'search')
        ],
    ),
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Education',
        'Intended Audience :: Science/Research',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ]
    + [
        f'Programming Language :: Python :: 3.{minor}'
        for minor in range(
            int(cfg['min_python'].split('.')[1]), int(cfg['max_python'].split('.')[1]) + 1
        )
    ],
)
