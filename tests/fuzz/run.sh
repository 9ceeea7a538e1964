#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs fuzzers, each for some seconds, and adds up.
#
#   BUILD=build/fuzz tests/fuzz/run.sh SECONDS [JOBS [NAME...]]
#
# Starts from the committed corpus; what is found goes to BUILD/corpus/NAME, inputs that crash to
# BUILD/crashes/NAME. One line for each fuzzer, last "N fuzzers, M crashes"; status 1 when M > 0,
# with each crasher's path and how to replay it: once its cause is mended, it goes to
# tests/fuzz/crashers/NAME, and `make test` replays it. A fuzzer that does not start or ends without its
# figures counts as a crash.
set -u -o pipefail

seconds=${1:?seconds}
jobs=${2:-2}
shift $(($# < 2 ? $# : 2))
BUILD=$(cd "${BUILD:-build/fuzz}" && pwd) || exit 64
cd "$(dirname "$0")/../.." || exit 69

INPUT_LIMIT_S=25 # one input
RSS_LIMIT_MB=1024

if [ $# -gt 0 ]; then
	names=("$@")
else
	names=()
	for source in tests/fuzz/fuzz_*.c; do
		name=${source##*/fuzz_}
		[ ! -x "$BUILD/tests/fuzz/fuzz_${name%.c}" ] || names+=("${name%.c}")
	done
fi

dictionary()
{
	case $1 in
	config) echo tests/fuzz/dict/yaml.dict ;;
	auth | data | header | log | milter) echo "tests/fuzz/dict/$1.dict" ;;
	dots) echo tests/fuzz/dict/data.dict ;;
	world | tls_hello | tls_conn) ;;
	*) echo tests/fuzz/dict/smtp.dict ;;
	esac
}

run_fuzzer()
{
	local name=$1 dict out=$BUILD/logs/$1.log

	dict=$(dictionary "$name")
	mkdir -p "$BUILD/corpus/$name" "$BUILD/crashes/$name" "$BUILD/logs"
	timeout -k 10 $((seconds + 120)) "$BUILD/tests/fuzz/fuzz_$name" \
		-max_total_time="$seconds" -timeout=$INPUT_LIMIT_S -rss_limit_mb=$RSS_LIMIT_MB \
		-max_len=4096 -print_final_stats=1 -artifact_prefix="$BUILD/crashes/$name/" \
		${dict:+-dict="$dict"} "$BUILD/corpus/$name" "tests/fuzz/corpus/$name" >"$out" 2>&1
	echo $? >"$BUILD/logs/$name.status"
}

# The last number behind WORD in the log.
figure()
{
	sed -nE "s/.*$2 *([0-9]+).*/\1/p" "$BUILD/logs/$1.log" | tail -n 1
}

report()
{
	local name=$1 status crashes=0 path

	status=$(cat "$BUILD/logs/$name.status")
	[ "$status" = 0 ] || crashes=1
	printf '%-8s %10s executions, %7s exec/s, %5s edges, %d crashes\n' "$name" \
		"$(figure "$name" 'number_of_executed_units:')" \
		"$(figure "$name" 'average_exec_per_sec:')" "$(figure "$name" 'cov:')" $crashes
	total=$((total + crashes))
	[ $crashes = 0 ] && return
	path=$(sed -nE 's/.*Test unit written to (.*)/\1/p' "$BUILD/logs/$name.log" | tail -n 1)
	grep -E 'assertion failed|ERROR: |runtime error:|SUMMARY' "$BUILD/logs/$name.log" | sed 's/^/  /'
	if [ -n "$path" ]; then
		echo "  input: $path"
		echo "  replay: $BUILD/tests/fuzz/fuzz_$name $path"
	else
		tail -n 5 "$BUILD/logs/$name.log" | sed 's/^/  /'
	fi
}

rm -rf "$BUILD/logs"
for name in "${names[@]}"; do
	while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
		wait -n
	done
	run_fuzzer "$name" &
done
wait
total=0
for name in "${names[@]}"; do
	report "$name"
done
echo "${#names[@]} fuzzers, $total crashes"
[ $total = 0 ]
