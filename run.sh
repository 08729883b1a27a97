cd /work/mut2
export PYTHONPATH=$PWD/src PATH=/work/main/.venv/bin:$PATH
for s in bitfusion bitblade; do
  echo "=== $s $(date)"; timeout 1500 python -m bitwright.gen.mutation $s --number 300 --seed 20261201
done
