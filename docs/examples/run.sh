#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
#
# ringpost in front of the embedded sink, on loopback: `make run`.
#
#   BUILD=build/release docs/examples/run.sh     until Ctrl-C
#   RUN_ONCE=1 ...                               sends one message by itself, shows it, ends
#   PORT=2525                                    the first port to try
#
# Needs bash, coreutils, util-linux and the two programs, nothing else. Status 0, or 1 with the
# reason; what ringpost said itself (no io_uring: 77, a bad configuration: 78, ...) is passed on.
set -u

BUILD=${BUILD:-build/release}
PORT=${PORT:-2525}
RUN_ONCE=${RUN_ONCE:-0}
ANSWER_S=${ANSWER_S:-10} # for the port, each reply, the log line and the end
FROM=sender@example.org
TO=recipient@example.net

tmp=
sink=
ringpost=

say()
{
	printf '%s\n' "$*"
}

# Ends one process by TERM, by KILL when it does not go; returns its exit status.
stop()
{
	local pid=$1 tries=$((ANSWER_S * 20))

	kill -TERM "$pid" 2>/dev/null
	while kill -0 "$pid" 2>/dev/null; do
		[ $((tries--)) -gt 0 ] || kill -KILL "$pid"
		sleep 0.05
	done
	wait "$pid" 2>/dev/null
}

# On every way out. ringpost first: it may still have something for the sink.
clean_up()
{
	trap '' INT TERM HUP
	[ -z "$ringpost" ] || stop "$ringpost"
	[ -z "$sink" ] || stop "$sink"
	[ -z "$tmp" ] || rm -rf "$tmp"
}

# The end of it all: why, what ringpost wrote, status.
die()
{
	local status=$1

	shift
	printf 'run.sh: %s\n' "$*" >&2
	if [ -n "$tmp" ] && [ -s "$tmp/ringpost.err" ]; then
		printf 'run.sh: ringpost wrote:\n' >&2
		sed 's/^/    /' "$tmp/ringpost.err" >&2
	fi
	exit "$status"
}

port_taken()
{
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port()
{
	local port=$1 last=$(($1 + 100))

	while port_taken "$port"; do
		port=$((port + 1))
		[ "$port" -le "$last" ] || return 1
	done
	say "$port"
}

# Looks in the kernel's table, not by connecting: that would be a session in the log.
listening()
{
	local line

	line=$(printf ' 0100007F:%04X 00000000:0000 0A ' "$1")
	grep -qF -- "$line" /proc/self/net/tcp
}

# wait_for WHAT PID COMMAND...: until the command succeeds. When the process ends before, its status.
wait_for()
{
	local what=$1 pid=$2 tries=$((ANSWER_S * 20)) status

	shift 2
	until "$@"; do
		if ! kill -0 "$pid" 2>/dev/null; then
			wait "$pid"
			status=$?
			die $((status ? status : 1)) "$what: it ended with status $status"
		fi
		[ $((tries--)) -gt 0 ] || die 1 "$what: nothing within $ANSWER_S seconds"
		sleep 0.05
	done
}

start_sink()
{
	setsid "$BUILD/ringpost-sink" --listen 127.0.0.1:0 --port-file "$tmp/sink.port" --print --quiet \
		>"$tmp/sink.out" &
	sink=$!
	wait_for "the sink does not start" "$sink" test -s "$tmp/sink.port"
	read -r sink_port <"$tmp/sink.port"
}

start_ringpost()
{
	port=$(free_port "$PORT") || die 1 "no free port from $PORT to $((PORT + 100))"
	cat >"$tmp/ringpost.yaml" <<-CONF
		log: {to: stderr, format: logfmt}
		shutdown-grace: 5s
		listeners:
		  demo: {bind: "127.0.0.1:$port", upstream: sink}
		upstreams:
		  sink: {servers: "127.0.0.1:$sink_port"}
	CONF
	# In a session of its own: Ctrl-C reaches this script alone, which ends both in order.
	if [ "$RUN_ONCE" = 1 ]; then
		setsid "$BUILD/ringpost" run -c "$tmp/ringpost.yaml" 2>"$tmp/ringpost.err" &
	else
		setsid "$BUILD/ringpost" run -c "$tmp/ringpost.yaml" &
	fi
	ringpost=$!
	wait_for "ringpost does not listen on 127.0.0.1:$port" "$ringpost" listening "$port"
}

# ---- until Ctrl-C ----

how_to_send()
{
	if command -v swaks >/dev/null; then
		say "swaks --server 127.0.0.1:$port --from $FROM --to $TO"
	elif command -v curl >/dev/null; then
		say "printf 'Subject: hello\\r\\n\\r\\nHello.\\r\\n' |" \
			"curl -sS smtp://127.0.0.1:$port --mail-from $FROM --mail-rcpt $TO -T -"
	else
		say "python3 -c 'import smtplib; smtplib.SMTP(\"127.0.0.1\", $port)" \
			".sendmail(\"$FROM\", \"$TO\", \"Subject: hello\\r\\n\\r\\nHello.\\r\\n\")'"
	fi
}

run_until_told()
{
	local status

	say ""
	say "ringpost listens on 127.0.0.1:$port and relays to ringpost-sink on 127.0.0.1:$sink_port."
	say "The configuration is $tmp/ringpost.yaml:"
	sed 's/^/    /' "$tmp/ringpost.yaml"
	say "Send a mail from another terminal:"
	say ""
	say "    $(how_to_send)"
	say ""
	say "Its log lines appear here, what the sink got is in $tmp/sink.out. Ctrl-C ends both."
	say ""
	wait -n "$ringpost" "$sink"
	status=$?
	die $((status ? status : 1)) "ringpost or the sink ended by itself, status $status"
}

# ---- one message ----

# Reads one whole reply (RFC 5321 4.2: all lines but the last have a hyphen) and wants this code.
expect()
{
	local line

	while :; do
		IFS= read -r -t "$ANSWER_S" -u "$smtp" line ||
			die 1 "no reply within $ANSWER_S seconds, or the connection is closed; expected $1"
		line=${line%$'\r'}
		say "    S: $line"
		[ "${line:3:1}" = - ] || break
	done
	[ "${line:0:3}" = "$1" ] || die 1 "expected $1, got: $line"
	last_reply=$line
}

# Lines, in one write: the shell's own printf would make a segment of each, and wait for every
# second one to be acknowledged.
send()
{
	printf '    C: %s\n' "$@"
	printf '%s\r\n' "$@" | cat >&"$smtp" || die 1 "the connection is closed"
}

send_message()
{
	{ exec {smtp}<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null ||
		die 1 "cannot connect to 127.0.0.1:$port"
	expect 220
	send "EHLO client.example"
	expect 250
	send "MAIL FROM:<$FROM>"
	expect 250
	send "RCPT TO:<$TO>"
	expect 250
	send DATA
	expect 354
	send "From: <$FROM>" "To: <$TO>" "Subject: hello from make run" "" \
		"One message through the ring." "..a line that begins with a dot" .
	expect 250
	accepted=$last_reply
	send QUIT
	expect 221
	exec {smtp}>&-
}

logged()
{
	grep -q 'ev=transaction' "$tmp/ringpost.err"
}

run_once()
{
	local status

	trap '' PIPE # a closed connection is an error of printf, not our end
	say "sink on 127.0.0.1:$sink_port, ringpost on 127.0.0.1:$port; one message:"
	send_message
	wait_for "no transaction in the log" "$ringpost" logged
	stop "$ringpost"
	status=$?
	ringpost=
	[ $status = 0 ] || die 1 "ringpost ended with status $status"
	stop "$sink"
	status=$?
	sink=
	[ $status = 0 ] || die 1 "the sink ended with status $status"
	[ -s "$tmp/sink.out" ] || die 1 "the sink got no message"
	say "ringpost logged:"
	grep 'ev=transaction' "$tmp/ringpost.err" | sed 's/^/    /'
	say "the sink got:"
	sed 's/^/    /' "$tmp/sink.out"
	say "one message relayed: $accepted"
}

# ---- ----

for program in ringpost ringpost-sink; do
	[ -x "$BUILD/$program" ] || die 69 "no $program in $BUILD: run make first"
done
trap clean_up EXIT
trap 'say ""; say "stopping"; exit 0' INT
trap 'exit 143' TERM HUP
tmp=$(mktemp -d "${TMPDIR:-/tmp}/ringpost-run.XXXXXX") || die 1 "no temporary directory"
start_sink
start_ringpost
if [ "$RUN_ONCE" = 1 ]; then
	run_once
else
	run_until_told
fi
