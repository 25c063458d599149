"""Files to copy for clusters, as far as they can be checked without one."""
import pathlib
import re
import subprocess

import pytest
from helpers.paths import ROOT

from rtjax import configs, train

DEPLOY = pathlib.Path(ROOT) / 'deploy'


def test_the_batch_script_is_valid_shell():
  subprocess.run(['bash', '-n', DEPLOY / 'slurm.sbatch'], check=True)


@pytest.mark.parametrize('name', ['jobset_gpu.yaml', 'jobset_tpu.yaml'])
def test_a_job_set_starts_as_many_processes_as_it_says(name):
  yaml = pytest.importorskip('yaml', reason='needs pyyaml')
  text = (DEPLOY / name).read_text()
  jobs = yaml.safe_load(text)
  (group,) = jobs['spec']['replicatedJobs']
  job, pod = group['template']['spec'], group['template']['spec']['template']['spec']
  assert job['completions'] == job['parallelism'] and job['completionMode'] == 'Indexed'
  (container,) = pod['containers']
  words = ' '.join([*container['command'], *container['args']]).replace('"', '').split()
  words = words[words.index('train.py') + 1:]
  config = train.parse([word.replace('${JOB_COMPLETION_INDEX}', '0') for word in words])
  assert words[0] in configs.names()
  if config.mesh.distributed != 'auto':
    address = f'{jobs["metadata"]["name"]}-{group["name"]}-0-0.{jobs["metadata"]["name"]}'
    port = container['ports'][0]['containerPort']
    assert config.mesh.distributed == f'{address}:{port},{job["completions"]},0'
  mounted = {mount['name'] for mount in container['volumeMounts']}
  assert mounted == {volume['name'] for volume in pod['volumes']}


def test_the_workers_image_has_the_tested_beam():
  text = (DEPLOY / 'Dockerfile.beam').read_text()
  (version,) = re.findall(r'^ARG BEAM=(.*)$', text, re.M)
  assert f'apache-beam>={version.rpartition(".")[0]},' in (DEPLOY.parent / 'setup.cfg').read_text()
  (scripts,) = re.findall(r'^ARG SCRIPTS=(.*)$', text, re.M)
  assert (DEPLOY.parent / scripts / 'generate.py').exists()
  assert re.findall('python(.*?)_sdk', text) == re.findall('FROM python:(.*?)-', (DEPLOY / 'Dockerfile').read_text())


def test_the_image_copies_files_that_exist():
  text = (DEPLOY / 'Dockerfile').read_text()
  left_out = {line.strip('/') for line in (DEPLOY.parent / '.dockerignore').read_text().split()}
  copied = [name for line in re.findall(r'^COPY (.*) \S+$', text, re.M) for name in line.split()]
  assert {'setup.cfg', 'rtjax', 'train.py'} <= set(copied)
  for name in copied:
    assert (DEPLOY.parent / name).exists() and name not in left_out, name
