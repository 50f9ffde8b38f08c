#!/usr/bin/env bash
# English to German by the first Transformer's shape (Vaswani et al. 2017), small and from nothing: greedy, and with beams.
# Usage: examples/multi30k/run.sh DIRECTORY [TIME]     DIRECTORY: holds train.en, train.de, val.en, val.de, a sentence a line
set -euo pipefail
data=$1; time=${2:-25min}
cd "$(dirname "$0")/../.."
mkdir -p runs/multi30k
for part in train val; do
  { printf 'en\tde\n'; paste <(tr '\t' ' ' < "$data/$part.en") <(tr '\t' ' ' < "$data/$part.de"); } > runs/multi30k/$part.tsv
done
modelwright tokenizer "$data/train.en" "$data/train.de" --kind unigram --objective span --vocab 8000 --output runs/multi30k/tokenizer
modelwright pretrain "$data/train.en" "$data/train.de" --objective span --arch transformer --tokenizer runs/multi30k/tokenizer --width 256 --layers 3 --heads 4 --ffn 1024 --context 128 --dropout 0.1 --steps 0 --output runs/multi30k/fresh
modelwright tune runs/multi30k/fresh/model --task examples/multi30k/task.yaml --method full --optimizer muon --rate 0.002 --matrix-rate 0.01 --epochs 20 --time "$time" --batch 128 --overlap 0.01 --output runs/multi30k/tuned
modelwright evaluate runs/multi30k/tuned/model --task examples/multi30k/task.yaml --part test --output runs/multi30k/greedy
for beams in "4 0.6" "2 0.6" "8 0.6" "4 0" "4 1" "4 2"; do  # the first as in the paper; the others to see what they change
  read -r width penalty <<< "$beams"
  modelwright evaluate runs/multi30k/tuned/model --task examples/multi30k/task.yaml --part test --beams "$width" --length-penalty "$penalty" --output "runs/multi30k/beams-$width-$penalty" --against runs/multi30k/greedy
done
python examples/multi30k/plot.py runs/multi30k docs/multi30k.svg
