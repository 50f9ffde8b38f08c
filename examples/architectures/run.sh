#!/usr/bin/env bash
# Architectures compared on the same texts. Usage: run.sh before|objectives|experts|plots [MINUTES]
#   before      an LSTM against a Transformer of its size, for the same minutes: the loss by how much of a text was read,
#               of public articles and of the embedded support desk
#   objectives  an encoder, a decoder and an encoder-decoder of one size, pretrained for the same minutes, each with the
#               tokenizer of its kind, and tuned for half of them on those of five tasks that it can do
#   experts     a mixture of experts against the dense model of its FLOPs, for the same steps
# MODELWRIGHT_DATA names the folder of the data. What is written stands in runs/architectures.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); cd "$here/../.."
out=runs/architectures; part=$1; minutes=${2:-10}
export MODELWRIGHT_DATA
[ -e $out/text/train.jsonl ] || python "$here/text.py" $out/text
common=($out/text/train.jsonl --time "${minutes}min" --context 512)

if [ "$part" = before ]; then
  for text in long desk; do
    [ -e $out/$text/train.jsonl ] || python "$here/text.py" $out/$text $text
    [ -e $out/$text/bpe ] || modelwright tokenizer $out/$text/train.jsonl --vocab 4096 --output $out/$text/bpe
    for arch in llama lstm; do
      made=$out/before/$text/$arch
      modelwright pretrain $out/$text/train.jsonl --time "${minutes}min" --context 512 --arch $arch --tokenizer $out/$text/bpe --size 2M --output $made
      modelwright evaluate $made/model --text $out/$text/test.jsonl --by-position --output $made/positions
    done
    python "$here/paired.py" $out/before/$text/llama/model $out/before/$text/lstm/model $out/$text/test.jsonl
  done
fi

if [ "$part" = objectives ]; then
  for objective in masked causal span; do
    modelwright pretrain "${common[@]}" --objective $objective --vocab 4096 --size 2M --output $out/objectives/$objective
  done
  [ -e $out/questions/train.jsonl ] || python "$here/text.py" $out/questions questions
  for task in sst2 wnut17 dialogsum xquad desk; do
    against=()
    for objective in masked causal span; do
      case "$task $objective" in
        "dialogsum masked") continue ;;           # an encoder writes nothing
        "wnut17 causal" | "wnut17 span") continue ;;  # a head over a word's labels stands on an encoder alone
      esac
      made=$out/objectives/$objective-$task
      modelwright tune $out/objectives/$objective/model --task "$here/tasks/$task.yaml" --method full --optimizer muon --rate 0.001 --matrix-rate 0.007 --epochs 30 --time "$((minutes * 30))s" --truncated 1 --overlap 0.2 --output "$made"
      modelwright evaluate "$made/model" --task "$here/tasks/$task.yaml" --part test --output "$made/test" "${against[@]}"
      against=(--against "$made/test")            # the next of this task is compared with it, example by example
    done
  done
fi

if [ "$part" = experts ]; then
  [ -e $out/bpe ] || modelwright tokenizer $out/text/train.jsonl --vocab 4096 --output $out/bpe
  shape=(--tokenizer $out/bpe --width 128 --layers 4 --heads 4 --ffn 512 --batch 8192)
  modelwright pretrain "${common[@]}" "${shape[@]}" --arch llama --output $out/experts/dense
  steps=$(python -c "import json; print(json.load(open('$out/experts/dense/plan.json'))['predicted']['steps'])")
  modelwright pretrain $out/text/train.jsonl --context 512 "${shape[@]}" --arch switch --experts 8 --steps "$steps" --output $out/experts/switch
  for name in dense switch; do
    modelwright evaluate $out/experts/$name/model --text $out/text/test.jsonl --output $out/experts/$name/test
  done
  python "$here/paired.py" $out/experts/dense/model $out/experts/switch/model $out/text/test.jsonl
fi

if [ "$part" = plots ]; then python "$here/plot.py" $out docs; fi
