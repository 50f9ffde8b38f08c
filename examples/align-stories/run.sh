#!/usr/bin/env bash
# A story writer of 260,000 parameters made gladder: PPO at three prices of KL, DPO beside it, and a reward that is cheated.
# Usage: examples/align-stories/run.sh MODEL TEXT [SEED ...]     MODEL: stories260k; TEXT: stories to measure forgetting on
set -euo pipefail
here=$(dirname "$0"); model=$1; text=$2; shift 2
common=(--prompts "$here/prompts.txt" --reward "$here/judge.py:glad" --gold "$here/judge.py:tells" --general "$text" --batch 64 --unfinished 0)

modelwright align ppo "$model" "${common[@]}" --beta 0 --rate 0.002 --rounds 150 --tests 50 --output runs/stories/cheat
for seed in "${@:-0}"; do
  for beta in 0.1 0.03 0.01; do
    modelwright align ppo "$model" "${common[@]}" --beta "$beta" --rounds 40 --seed "$seed" --output "runs/stories/ppo-$beta-$seed"
  done
  python "$here/frontier.py" rank "$model" --seed "$seed" --output "runs/stories/rankings-$seed.jsonl"
  for beta in 0.3 0.1 0.03; do
    modelwright align dpo "$model" --pairs "runs/stories/rankings-$seed.jsonl" --general "$text" --beta "$beta" --seed "$seed" --output "runs/stories/dpo-$beta-$seed"
  done
  python "$here/frontier.py" look "$model" runs/stories/{ppo,dpo}-*-"$seed"/model --seed "$seed" --output "runs/stories/look-$seed.json"
done
python "$here/frontier.py" plot runs/stories/look-*.json --output runs/stories/frontier.svg
