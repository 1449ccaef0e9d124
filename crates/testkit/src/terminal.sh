#!/bin/bash
# terminal COMMAND [SHOWN KEYS]...
# Runs COMMAND in a terminal whose input stays open, prints what the terminal shows and ends with COMMAND's exit code.
# KEYS (a format of printf) are typed when the terminal has become raw and has shown SHOWN since the last keys.
set -u
dir=$(mktemp -d -p "$HOME") || exit 125
trap 'rm -r "$dir"' EXIT
mkfifo "$dir/keys"
touch "$dir/shown" "$dir/name"
exec {keys}<>"$dir/keys"
script -qefc "tty >'$dir/name'; $1" /dev/null <&"$keys" >"$dir/shown" &
pid=$!
shift

ready() {
  tail -c "+$((typed + 1))" "$dir/shown" | grep -qF -- "$1" || [[ -z $1 ]] || return
  [[ -s $dir/name ]] && stty -F "$(cat "$dir/name")" -a 2>/dev/null | grep -q -- '-icanon'
}

typed=0
while (($# > 1)); do
  # A command that ends early shows its reason. The deadline is the caller's.
  until ready "$1"; do
    kill -0 "$pid" 2>/dev/null || break 2
    sleep 0.02
  done
  typed=$(stat -c %s "$dir/shown")
  # shellcheck disable=SC2059
  printf "$2" >&"$keys"
  shift 2
done
wait "$pid"
code=$?
cat "$dir/shown"
exit "$code"
