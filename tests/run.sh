#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs the tests and adds them up.
#
#   BUILD=build/release tests/run.sh all         units, the bench's report, scripted peers, interoperability
#   BUILD=build/release tests/run.sh unit        units
#   BUILD=build/release tests/run.sh unit quick  units, the bench's report and the quick scripted tests
#
# With SIM=build/asan/ringpost-sim also simulated worlds for a minute.
#
# Shows failures in full, one line for each suite with its seconds, the names of what failed, and
# last "N passed, M failed". Status 1 when M > 0. A runner that crashes, hangs, reports fewer tests
# than it announced, or brings a sanitizer's report is a failed test of its own.
set -u -o pipefail

what=${1:-all}
quick=${2:-}
case $what:$quick in
all: | unit: | all:quick | unit:quick) ;;
*)
	echo "usage: BUILD=DIR tests/run.sh all|unit [quick]" >&2
	exit 64
	;;
esac
BUILD=$(cd "${BUILD:-build/release}" && pwd) || exit 64
cd "$(dirname "$0")/.." || exit 69

UNIT_LIMIT_S=900   # one program
SUITE_LIMIT_S=3600 # a python suite
SIM_SECONDS=60     # of simulated worlds

tmp=$(mktemp -d) || exit 69
trap 'rm -rf "$tmp"' EXIT
passed=0
skipped=0
failures=()

failed()
{
	failures+=("$1")
}

seconds_since()
{
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

# count FILE SUITE STATUS: adds the TAP in FILE up; STATUS is its runner's. Sets `bad`.
count()
{
	local file=$1 suite=$2 status=$3 plan seen ok skip name

	ok=$(grep -cE '^ok ' "$file")
	skip=$(grep -cE '^ok .*# *SKIP' "$file")
	bad=$(grep -cE '^not ok ' "$file")
	plan=$(sed -n 's/^1\.\.\([0-9]*\).*/\1/p' "$file" | head -n 1)
	seen=$((ok + bad))
	passed=$((passed + ok - skip))
	skipped=$((skipped + skip))
	while read -r name; do
		failed "$suite: $name"
	done < <(sed -nE 's/^not ok (- )?(.*[^ ]) *$/\2/p' "$file" | sed -E 's/ +\([0-9.]+s\)$//')
	if [ "$status" = 124 ] || [ "$status" = 137 ]; then
		failed "$suite: the runner did not end in time"
	elif [ "$status" -gt 1 ] || { [ "$status" = 1 ] && [ "$bad" = 0 ]; }; then
		failed "$suite: the runner ended with status $status"
	elif [ "$seen" = 0 ]; then
		failed "$suite: no tests were run"
	elif [ -n "$plan" ] && [ "$plan" -gt "$seen" ]; then
		failed "$suite: $((plan - seen)) of $plan tests have no result"
	else
		return
	fi
	bad=$((bad + 1))
}

# ---- units: one Criterion program for each module ----

# A sanitizer's report goes to a file: Criterion does not see what a test's process says as it ends.
run_unit()
{
	local program=$1 name=${1##*/} status reports

	{
		ASAN_OPTIONS="log_path=$tmp/$name.san:${ASAN_OPTIONS:-}" \
		UBSAN_OPTIONS="log_path=$tmp/$name.san:print_stacktrace=1:${UBSAN_OPTIONS:-}" \
		TSAN_OPTIONS="log_path=$tmp/$name.san:second_deadlock_stack=1:${TSAN_OPTIONS:-}" \
			timeout --foreground -k 10 $UNIT_LIMIT_S "$program" -j2 ${some:+--filter "$some"} \
			--tap="$tmp/$name.tap" >"$tmp/$name.out" 2>&1
		status=$?
	} 2>/dev/null # the shell's own word on a program that crashed
	touch "$tmp/$name.tap"
	count "$tmp/$name.tap" "unit/$name" "$status"
	reports=$(find "$tmp" -name "$name.san*" | sort)
	if [ -n "$reports" ]; then
		failed "unit/$name: a sanitizer's report"
		bad=$((bad + 1))
	fi
	[ "$bad" = 0 ] && return
	echo "---- $name ----"
	cat "$tmp/$name.out"
	[ -z "$reports" ] || xargs -d '\n' cat <<<"$reports"
}

run_units()
{
	local t0=$EPOCHREALTIME before=$passed wrong=${#failures[@]} program count=0

	for program in "$BUILD"/tests/unit/test_*; do
		case $program in
		*.o | *.d) continue ;;
		esac
		[ -x "$program" ] || continue
		count=$((count + 1))
		run_unit "$program"
	done
	[ $count -gt 0 ] || failed "unit: no test programs in $BUILD/tests/unit"
	report_suite unit "$before" "$wrong" "$t0" " in $count programs"
}

# ---- the fuzzers' inputs: corpora, and what once crashed ----

# One test for each fuzzer: its claims hold for every committed input.
run_fuzz_corpora()
{
	local t0=$EPOCHREALTIME before=$passed wrong=${#failures[@]} program name inputs out count=0

	for program in "$BUILD"/tests/fuzz/replay-*; do
		[ -x "$program" ] || continue
		count=$((count + 1))
		name=${program##*/replay-}
		out=$tmp/replay-$name.out
		mapfile -t inputs < <(find "tests/fuzz/corpus/$name" "tests/fuzz/crashers/$name" \
			-type f 2>/dev/null | sort)
		if { timeout --foreground -k 10 $UNIT_LIMIT_S "$program" "${inputs[@]}" >"$out" 2>&1; } \
			2>/dev/null; then
			passed=$((passed + 1))
			continue
		fi
		failed "fuzz/$name: $(grep '^tests/fuzz/' "$out" | tail -n 1)"
		echo "---- fuzz/$name ----"
		grep -v '^tests/fuzz/' "$out"
	done
	[ $count -gt 0 ] || failed "fuzz: no programs in $BUILD/tests/fuzz"
	report_suite fuzz "$before" "$wrong" "$t0" ""
}

# ---- suites in python: TAP on standard output ----

# Passes on each `not ok` line and the comments below it.
only_failures()
{
	awk '/^ok / || /^# failed:/ || /^# [0-9]+ passed/ { on = 0 } /^not ok / { on = 1 }
		on || /^Bail out!/ { print; fflush() }'
}

run_suite()
{
	local name=$1 t0=$EPOCHREALTIME before=$passed wrong=${#failures[@]} status

	shift
	[ -d "tests/$name" ] || return
	if [ ! -f "tests/$name/run.py" ]; then
		failed "$name: tests/$name has no run.py"
		return
	fi
	timeout --foreground -k 10 $SUITE_LIMIT_S python3 -B "tests/$name/run.py" --build "$BUILD" "$@" \
		2>"$tmp/$name.err" | tee "$tmp/$name.tap" | only_failures
	status=${PIPESTATUS[0]}
	count "$tmp/$name.tap" "$name" "$status"
	if [ "$bad" -gt 0 ] && [ -s "$tmp/$name.err" ]; then
		echo "---- $name, standard error ----"
		cat "$tmp/$name.err"
	fi
	report_suite "$name" "$before" "$wrong" "$t0" ""
}

report_suite()
{
	printf '%-8s %d passed, %d failed%s, %s s\n' "$1" $((passed - $2)) $((${#failures[@]} - $3)) \
		"$5" "$(seconds_since "$4")"
}

# ---- ----

# Quick: the proof of the scanner up to length 6, and streams and movers with what this kernel has only.
some=
if [ -n "$quick" ]; then
	export UNIT_QUICK=1
	some='!(*_uncapped|*_plain)/*'
fi
run_units
# ---- simulated worlds: TAP on standard output, broken worlds below it ----

run_sim()
{
	local t0=$EPOCHREALTIME before=$passed wrong=${#failures[@]} status

	timeout --foreground -k 10 $UNIT_LIMIT_S "$SIM" --tap --tapes tests/sim/tapes --seconds $SIM_SECONDS \
		--quiet --save "$BUILD" >"$tmp/sim.tap" 2>"$tmp/sim.err"
	status=$?
	count "$tmp/sim.tap" sim "$status"
	if [ "$bad" -gt 0 ]; then
		echo "---- simulated worlds ----"
		grep -v '^ok ' "$tmp/sim.tap"
		head -c 20000 "$tmp/sim.err"
	fi
	report_suite sim "$before" "$wrong" "$t0" \
		": $(sed -n 's/^# \([0-9]* sessions in [0-9]* worlds\).*/\1/p' "$tmp/sim.tap")"
}

run_fuzz_corpora
[ -z "${SIM:-}" ] || run_sim
[ "$what:$quick" = unit: ] || run_suite bench
if [ -n "$quick" ]; then
	run_suite proto --quick
elif [ "$what" = all ]; then
	run_suite proto
	run_suite interop
fi

if [ ${#failures[@]} -gt 0 ]; then
	echo "failed:"
	printf '  %s\n' "${failures[@]}"
fi
[ $skipped = 0 ] || echo "$skipped skipped"
echo "$passed passed, ${#failures[@]} failed"
[ ${#failures[@]} = 0 ]
