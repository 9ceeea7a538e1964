/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The options of ringpost-blast: one table. What is wrong ends the program with one line and 64.
 */
#include "bench/blast/blast_int.h"

#include <errno.h>

#define SIZE_DEFAULT 4096
#define SIZE_UNSET UINT64_MAX

static bool opt_to(void *ctx, const struct opt *row, const char *arg)
{
	struct blast_options *o = ctx;

	o->to_text = arg;
	return addr_parse(span_str(arg), &o->to);
}

static bool opt_source(void *ctx, const struct opt *row, const char *arg)
{
	struct blast_options *o = ctx;

	return sources_add(&o->sources, arg);
}

static bool opt_tls_version(void *ctx, const struct opt *row, const char *arg)
{
	struct blast_options *o = ctx;

	o->tls_version_given = true;
	o->tls_version = strcmp(arg, "1.3") == 0 ? TLS_1_3 : TLS_1_2;
	return o->tls_version == TLS_1_3 || strcmp(arg, "1.2") == 0;
}

static const char about[] = "Sends made-up messages and measures how they are taken. Closed loop: "
			    "each connection sends its next message when\n"
			    "the last one was answered. --rate R: by schedule, whatever the "
			    "answers do; a message's time counts from when it\n"
			    "was due. --idle N: opens N sessions and leaves them alone. Templates: "
			    "%m message, %r recipient, %c connection.\n"
			    "Exit status 0: every message was accepted.";

static const char examples[] =
	"  ringpost-blast --to 127.0.0.1:2525\n"
	"  ringpost-blast --to 127.0.0.1:2525 --connections 50 --messages 100000 --pipelining "
	"--size 4k\n"
	"  ringpost-blast --to '[::1]:2525' --connections 200 --rate 2000 --duration 30 --json\n"
	"  ringpost-blast --to unix:/tmp/sink --bdat --chunk 64k --size 10m --messages 100 --hash\n"
	"  ringpost-blast --to 127.0.0.1:2525 --connections 50 --warm-up 2 --duration 10 --marks "
	"--json\n"
	"  ringpost-blast --to 127.0.0.1:2525 --connections 50 --sizes real --messages 10000\n"
	"  ringpost-blast --to 127.0.0.1:2525 --starttls --tls-ca ca.pem --tls-name "
	"mx.example.org --messages 100\n"
	"  ringpost-blast --to 127.0.0.1:2525 --idle 10000 --duration 60 --source "
	"127.0.0.2-127.0.0.20\n";

static void defaults(struct blast_options *o)
{
	memset(o, 0, sizeof(*o));
	o->connections = 1;
	o->size = SIZE_UNSET;
	o->slow_rate = 10;
	o->recipients = 1;
	o->from = "sender@blast.example";
	o->rcpt = "rcpt%r@sink.example";
	o->parameters = "";
	o->helo = "blast.example";
	o->tls_name = "localhost";
	o->timeout_us = 60 * 1000000ull;
	o->retry_us = 100000;
	o->give_up = 1000;
	o->cpu = UINT64_MAX;
}

static void check_texts(const struct blast_options *o, const struct opts *t)
{
	char out[COMMAND_BYTES];

	if (!template_expand(o->from, UINT64_MAX, UINT64_MAX, UINT64_MAX, out, ADDRESS_BYTES))
		opts_die(t, "--from: too long, or an unknown letter behind %%");
	if (!template_expand(o->rcpt, UINT64_MAX, UINT64_MAX, UINT64_MAX, out, ADDRESS_BYTES))
		opts_die(t, "--rcpt: too long, or an unknown letter behind %%");
	if (strlen(o->parameters) > 400 || strlen(o->helo) > 1000)
		opts_die(t, "--helo or --parameters is too long");
	if (o->run && (strlen(o->run) == 0 || strlen(o->run) > 16))
		opts_die(t, "--run takes 1 to 16 characters");
}

static void read_sizes(struct blast_options *o, const struct opts *t)
{
	const char *why;
	unsigned line;
	FILE *f;

	if (!o->sizes_text) {
		sizes_single(&o->sizes, o->size == SIZE_UNSET ? SIZE_DEFAULT : o->size);
		return;
	}
	if (o->size != SIZE_UNSET)
		opts_die(t, "--size or --sizes, not both");
	if (strcmp(o->sizes_text, "real") == 0) {
		sizes_real(&o->sizes);
		return;
	}
	f = fopen(o->sizes_text, "r");
	if (!f)
		opts_die(t, "--sizes %s: %s", o->sizes_text, strerror(errno));
	why = sizes_read(&o->sizes, f, &line);
	fclose(f);
	if (why)
		opts_die(t, "--sizes %s, line %u: %s", o->sizes_text, line, why);
}

static void check_roles(struct blast_options *o, const struct opts *t)
{
	if (o->idle && (o->messages || o->rate > 0 || o->slow || o->idle_also))
		opts_die(t, "--idle sends nothing: no --messages, --rate or --slow; beside load "
			    "it is --idle-also");
	if (o->slow >= o->connections && o->slow)
		opts_die(t, "--slow is how many of the --connections: less than all");
	if (o->idle)
		o->connections = 0;
	else
		o->idle = o->idle_also;
}

static void check_tls(const struct blast_options *o, const struct opts *t)
{
	bool more = o->tls_version_given || o->tls_resume || o->tls_insecure || o->tls_ca;

	if (o->starttls && o->tls)
		opts_die(t, "--starttls or --tls, not both");
	if (more && !secured(o))
		opts_die(t, "--tls-... and --resume go with --starttls or --tls");
	if (o->tls_resume && o->tls_version_given && o->tls_version == TLS_1_2)
		opts_die(t, "--resume: sessions of TLS 1.3 only");
	if (o->tls_ca && o->tls_insecure)
		opts_die(t, "--tls-ca or --tls-insecure, not both");
}

static void check(struct blast_options *o, const struct opts *t)
{
	if (!o->to_text)
		opts_die(t, "--to is missing");
	check_texts(o, t);
	check_roles(o, t);
	check_tls(o, t);
	read_sizes(o, t);
	if (o->rate > 0 && !o->messages && !o->duration_us)
		opts_die(t, "--rate needs --messages or --duration");
	if (windowed(o) && !o->messages && !o->duration_us)
		opts_die(t, "--warm-up and --marks need --duration or --messages");
	if (o->connections + o->idle > rig_connections_allowed())
		opts_die(t, "%" PRIu64 " connections: the descriptor limit allows %" PRIu32,
			o->connections + o->idle, rig_connections_allowed());
}

static const struct opt option_rows[] = {
	OPT_HEADING("Where"),
	OPT_FUNC("to", "ADDR", opt_to, "127.0.0.1:25, [::1]:25, unix:/path"),
	OPT_FUNC("source", "ADDR[,...]", opt_source,
		"local addresses to connect from, in turn: also 127.0.0.2-127.0.0.100, "
		"127.0.1.0/24"),
	OPT_VALUE("helo", "NAME", OPT_TEXT, struct blast_options, helo, "in EHLO (blast.example)"),
	OPT_BOUNDED("cpu", "N", OPT_COUNT, struct blast_options, cpu, 0, 4095, "pin to this CPU"),
	OPT_HEADING("TLS"),
	OPT_VALUE("starttls", NULL, OPT_FLAG, struct blast_options, starttls,
		"STARTTLS behind the first EHLO; a server without it is a failure"),
	OPT_VALUE("tls", NULL, OPT_FLAG, struct blast_options, tls,
		"from the first octet (port 465)"),
	OPT_VALUE("tls-ca", "FILE", OPT_TEXT, struct blast_options, tls_ca,
		"CAs, PEM, that the server's certificate is checked by (the system's)"),
	OPT_VALUE("tls-name", "NAME", OPT_TEXT, struct blast_options, tls_name,
		"asked for, and to be in the certificate (localhost)"),
	OPT_VALUE("tls-insecure", NULL, OPT_FLAG, struct blast_options, tls_insecure,
		"any certificate will do"),
	OPT_FUNC("tls-version", "V", opt_tls_version, "this one alone: 1.2, 1.3"),
	OPT_VALUE("resume", NULL, OPT_FLAG, struct blast_options, tls_resume,
		"resume sessions where the server lets; else each handshake is a full one"),
	OPT_HEADING("How much"),
	OPT_BOUNDED("connections", "N", OPT_COUNT, struct blast_options, connections, 1, 1000000,
		"at once (1)"),
	OPT_BOUNDED("messages", "N", OPT_COUNT, struct blast_options, messages, 1, 1e15,
		"in all (1, or no limit with --duration)"),
	OPT_BOUNDED("duration", "S", OPT_SECONDS, struct blast_options, duration_us, 0.001, 864000,
		"nothing is begun after this time: 30, 500ms, 2m"),
	OPT_BOUNDED("warm-up", "S", OPT_SECONDS, struct blast_options, warm_up_us, 0, 864000,
		"load that is not counted; behind it --duration and --messages are what is "
		"measured"),
	OPT_BOUNDED("per-connection", "N", OPT_COUNT, struct blast_options, per_connection, 1, 1e9,
		"messages on one connection, then a new one (no limit)"),
	OPT_BOUNDED("rate", "R", OPT_REAL, struct blast_options, rate, 0.001, 1e7,
		"messages a second by schedule (open loop), on at most --connections"),
	OPT_BOUNDED("idle", "N", OPT_COUNT, struct blast_options, idle, 1, 1000000,
		"open N sessions, EHLO, stay silent for --duration, QUIT"),
	OPT_BOUNDED("idle-also", "N", OPT_COUNT, struct blast_options, idle_also, 1, 1000000,
		"the same beside the load: opened before it, until it is over"),
	OPT_BOUNDED("slow", "N", OPT_COUNT, struct blast_options, slow, 1, 1000000,
		"of the connections are slow, lock-step, and counted apart"),
	OPT_BOUNDED("slow-rate", "B", OPT_SIZE, struct blast_options, slow_rate, 1, 1u << 20,
		"octets a second that a slow connection sends (10)"),
	OPT_HEADING("Messages"),
	OPT_BOUNDED("size", "N", OPT_SIZE, struct blast_options, size, 0, 1u << 30,
		"octets of a message with its header lines: 4096, 75k, 10m (4k)"),
	OPT_VALUE("sizes", "FILE", OPT_TEXT, struct blast_options, sizes_text,
		"many sizes: lines \"WEIGHT SIZE\"; or the word real: a mixture like mail"),
	OPT_BOUNDED("seed", "N", OPT_COUNT, struct blast_options, seed, 0, 1e18,
		"which message has which of --sizes (0)"),
	OPT_BOUNDED("recipients", "N", OPT_COUNT, struct blast_options, recipients, 1, 100000,
		"of each message (1)"),
	OPT_VALUE("from", "TEMPLATE", OPT_TEXT, struct blast_options, from,
		"sender, without brackets (sender@blast.example)"),
	OPT_VALUE("rcpt", "TEMPLATE", OPT_TEXT, struct blast_options, rcpt,
		"recipient (rcpt%r@sink.example)"),
	OPT_VALUE("parameters", "TEXT", OPT_TEXT, struct blast_options, parameters,
		"behind MAIL FROM:<...>, such as \"BODY=8BITMIME SIZE=4096\""),
	OPT_VALUE("hash", NULL, OPT_FLAG, struct blast_options, hash,
		"each message has an id and a hash that ringpost-sink --hash checks"),
	OPT_VALUE("run", "NAME", OPT_TEXT, struct blast_options, run,
		"first part of the ids (made up)"),
	OPT_HEADING("How"),
	OPT_VALUE("pipelining", NULL, OPT_FLAG, struct blast_options, pipelining,
		"MAIL, RCPT and DATA in one send; the last body, its dot and QUIT in one"),
	OPT_VALUE("bdat", NULL, OPT_FLAG, struct blast_options, bdat, "BDAT instead of DATA"),
	OPT_BOUNDED("chunk", "N", OPT_SIZE, struct blast_options, chunk, 1, 1u << 30,
		"octets of a chunk (the whole message)"),
	OPT_BOUNDED("timeout", "S", OPT_SECONDS, struct blast_options, timeout_us, 0.01, 86400,
		"longest wait for each reply (60)"),
	OPT_BOUNDED("retry-pause", "S", OPT_SECONDS, struct blast_options, retry_us, 0, 3600,
		"before a slot connects again after its connection failed (100ms)"),
	OPT_BOUNDED("give-up", "N", OPT_COUNT, struct blast_options, give_up, 0, 1e15,
		"failed connects in a row that end the run, 0 = never (1000)"),
	OPT_HEADING("Output"),
	OPT_VALUE(
		"json", NULL, OPT_FLAG, struct blast_options, json, "the report as one JSON line"),
	OPT_VALUE("histogram", NULL, OPT_FLAG, struct blast_options, histogram,
		"with --json: every bucket of the latencies"),
	OPT_VALUE("marks", NULL, OPT_FLAG, struct blast_options, marks,
		"a JSON line when measuring begins, and one when it ends"),
	OPT_VALUE("log", "FILE", OPT_TEXT, struct blast_options, log_file,
		"a line for each message: id, outcome, stage, code"),
	OPT_VALUE("quiet", NULL, OPT_FLAG, struct blast_options, quiet,
		"no report; the exit status tells"),
};

void options_read(struct blast_options *o, int argc, char **argv)
{
	const struct opts t = {PROGRAM, "--to ADDR [options]", about, examples, option_rows,
		ARRAY_LEN(option_rows), o};

	defaults(o);
	opts_read(&t, argc, argv);
	check(o, &t);
}
