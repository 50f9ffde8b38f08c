#!/bin/sh
# Agents that are rude two times in five, made polite: from nothing, on one core. Needs the base of `make desk-base`.
#
#   sh examples/align-desk/run.sh                  RUNS=DIR SEEDS="0 1" sh examples/align-desk/run.sh
set -eu
RUNS=${RUNS:-runs/align-desk}
SEEDS=${SEEDS:-0 1 2 3 4}
HERE=$(dirname "$0")
export OMP_NUM_THREADS=1

# What judges: a classifier of manners, which is the reward, and a reward model of preferences, which is gold.
modelwright pretrain desk:20000 --objective masked --width 128 --layers 3 --heads 4 --vocab 2048 --context 128 --time 3min --output "$RUNS/masked"
modelwright tune "$RUNS/masked/model" --task "$HERE/manner.yaml" --method full --optimizer muon --rate 0.002 --matrix-rate 0.01 --batch 32 --epochs 3 --tests 3 --select 200 --output "$RUNS/manner"
modelwright evaluate "$RUNS/manner/model" --task "$HERE/manner.yaml" --part decide
modelwright align reward runs/desk-base/model --pairs desk:preferences:5000 --held-out desk:preferences/test:800 --task "$HERE/reply.yaml" --method full --tests 1 --steps 280 --rows 4 --output "$RUNS/reward"

# Who replies: an encoder-decoder that learned from all replies, the rude ones too.
modelwright pretrain desk:20000 --objective span --width 128 --layers 2 --heads 4 --vocab 2048 --context 256 --time 20min --output "$RUNS/span"
modelwright tune "$RUNS/span/model" --task "$HERE/reply.yaml" --method full --optimizer muon --rate 0.003 --matrix-rate 0.02 --batch 32 --steps 1500 --select 50 --tests 3 --output "$RUNS/tuned"

# Made polite: a LoRA, by PPO, once for each seed, and measured on requests of the part decide, which nothing has seen.
AFTER=
for seed in $SEEDS; do
  modelwright align ppo "$RUNS/tuned/model" --task "$HERE/reply.yaml" --reward "$RUNS/manner/model:polite" --gold "$RUNS/reward/model" --part decide --toxicity "$HERE/../desk-reply/judge.py:rude" --rounds 40 --batch 64 --rate 0.0006 --tests 4 --select 60 --measured 500 --seed "$seed" --output "$RUNS/ppo-$seed"
  AFTER="$AFTER $RUNS/ppo-$seed/model"
done
# shellcheck disable=SC2086
python "$HERE/measure.py" "$RUNS/tuned/model" $AFTER --judge "$RUNS/manner/model" > "$RUNS/measured.json"
