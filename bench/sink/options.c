/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The options of ringpost-sink, and the texts that follow from them: greeting, EHLO and HELO. A bad
 * option ends the program (64).
 */
#include "bench/sink/sink_int.h"
#include "bench/lib/opts.h"

#include <inttypes.h>
#include <stdarg.h>

static bool opt_listen(void *ctx, const struct opt *row, const char *arg)
{
	struct sink *k = ctx;

	if (k->door_count == LISTENERS_MAX)
		return false;
	return addr_parse(span_str(arg), &k->door[k->door_count++].addr);
}

static bool opt_drop(void *ctx, const struct opt *row, const char *arg)
{
	struct sink *k = ctx;
	enum point p = rule_find(arg, strlen(arg));

	if (p == POINT_COUNT)
		return false;
	k->rule[p].drop = true;
	return true;
}

/* "CODE text", "\n" written out separates the lines of a multi-line reply. */
static char *reply_text(const char *text, uint16_t code)
{
	char *out = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&out, &len);

	if (!f)
		return NULL;
	text += 3;
	while (*text) {
		const char *end = strstr(text + 1, "\\n");
		size_t n = end ? (size_t)(end - text) : strlen(text);

		fprintf(f, "%03u%c%.*s\r\n", code, end ? '-' : ' ', (int)(n - 1), text + 1);
		text += n + (end ? 1 : 0);
	}
	fclose(f);
	return out;
}

/* POINT=CODE text */
static bool opt_reply(void *ctx, const struct opt *row, const char *arg)
{
	struct sink *k = ctx;
	const char *eq = strchr(arg, '=');
	enum point p = eq ? rule_find(arg, (size_t)(eq - arg)) : POINT_COUNT;
	char *rest;

	if (p == POINT_COUNT || p == AT_BODY)
		return false;
	unsigned long code = strtoul(eq + 1, &rest, 10);
	if (rest != eq + 4 || code < 200 || code > 599 || *rest != ' ')
		return false;
	/* After any other positive reply nobody could tell where a body starts. */
	if (p == AT_DATA && code < 400 && code != 354)
		return false;
	k->rule[p].code = (uint16_t)code;
	k->rule[p].reply = reply_text(eq + 1, (uint16_t)code);
	return k->rule[p].reply != NULL;
}

static bool opt_delay(void *ctx, const struct opt *row, const char *arg)
{
	struct sink *k = ctx;

	return opt_count(arg, &k->rule[row->tag].delay_ms) &&
	       k->rule[row->tag].delay_ms <= 86400000;
}

static const char about[] =
	"An SMTP server that takes mail and counts, checks, prints or stores it; and one that "
	"answers late, refuses or\n"
	"hangs up, to see what its clients do. Lines end with CRLF and messages with CRLF.CRLF, "
	"nothing else.\n"
	"POINT is one of: greeting ehlo starttls auth mail rcpt data body bdat dot rset noop vrfy "
	"quit.\n"
	"TERM and INT end it: exit status 0.";

static const char examples[] = "  ringpost-sink --listen 127.0.0.1:2525 --print\n"
			       "  ringpost-sink --listen 127.0.0.1:0 --port-file /tmp/port --store "
			       "/tmp/mail --hash --stats\n"
			       "  ringpost-sink --listen unix:/tmp/sink --reply rcpt=\"550 5.1.1 "
			       "nobody\" --reply-share 0.1\n"
			       "  ringpost-sink --listen '[::1]:2525' --delay-dot 500 --drop dot "
			       "--drop-share 0.01 --drop-reset\n";

void options_defaults(struct sink *k)
{
	memset(k, 0, sizeof(*k));
	list_init(&k->sessions);
	k->hostname = "sink.example";
	k->size_max = 100u << 20;
	k->rcpts_max = 5000;
	k->timeout_us = 300u * 1000000ull;
	k->reply_share = k->drop_share = 1;
	k->offer_pipelining = k->offer_chunking = true;
	k->cpu = UINT64_MAX;
	k->seed = 1;
	k->store.dir = -1;
}

#define DELAY(point, what)                                                                \
	{                                                                                 \
		"delay-" what, "MS", OPT_CALL, 0, 0, 0, "wait before the reply to " what, \
			opt_delay, point                                                  \
	}

static const struct opt option_rows[] = {
	OPT_HEADING("Where"),
	OPT_FUNC("listen", "ADDR", opt_listen,
		"127.0.0.1:25, [::1]:25, unix:/path; port 0 = any; may be repeated"),
	OPT_VALUE("port-file", "FILE", OPT_TEXT, struct sink, port_file,
		"writes the port of each listener, one a line, when ready"),
	OPT_VALUE("reuseport", NULL, OPT_FLAG, struct sink, reuseport,
		"SO_REUSEPORT, to start several on one port"),
	OPT_BOUNDED("cpu", "N", OPT_COUNT, struct sink, cpu, 0, 4095, "pin to this CPU"),
	OPT_BOUNDED("connections-max", "N", OPT_COUNT, struct sink, connections_max, 1, 1000000,
		"sessions at once (default: what the descriptor limit allows)"),
	OPT_BOUNDED("timeout", "S", OPT_SECONDS, struct sink, timeout_us, 0.01, 86400,
		"silence that ends a session (300)"),
	OPT_HEADING("What it says"),
	OPT_VALUE("hostname", "NAME", OPT_TEXT, struct sink, hostname,
		"in the greeting and EHLO (sink.example)"),
	OPT_VALUE(
		"banner", "TEXT", OPT_TEXT, struct sink, banner, "the whole text behind \"220 \""),
	OPT_BOUNDED("size", "N", OPT_SIZE, struct sink, size_max, 0, 1e15,
		"largest message, octets or 10k, 5m, 1g; 0 = no limit (100m)"),
	OPT_BOUNDED("recipients-max", "N", OPT_COUNT, struct sink, rcpts_max, 1, 1e9,
		"of one message; more get 452 (5000)"),
	OPT_VALUE("no-pipelining", NULL, OPT_UNFLAG, struct sink, offer_pipelining,
		"not offered; who pipelines all the same is counted (early_input)"),
	OPT_VALUE("no-chunking", NULL, OPT_UNFLAG, struct sink, offer_chunking,
		"CHUNKING and BINARYMIME not offered, BDAT refused"),
	OPT_VALUE("auth", NULL, OPT_FLAG, struct sink, offer_auth,
		"offer AUTH PLAIN LOGIN and accept anything"),
	OPT_VALUE("starttls", NULL, OPT_FLAG, struct sink, starttls,
		"offer STARTTLS; mail is taken without it, too"),
	OPT_VALUE("tls", NULL, OPT_FLAG, struct sink, tls,
		"TLS from the first octet, on all listeners"),
	OPT_VALUE("tls-cert", "FILE", OPT_TEXT, struct sink, tls_cert, "certificate chain, PEM"),
	OPT_VALUE("tls-key", "FILE", OPT_TEXT, struct sink, tls_key, "its key, PEM"),
	OPT_HEADING("What it does with mail"),
	OPT_VALUE("print", NULL, OPT_FLAG, struct sink, print,
		"a JSON line on stdout for each message"),
	OPT_VALUE("hash", NULL, OPT_FLAG, struct sink, hash,
		"FNV-1a 64 of each message; checks X-Ringpost-Hash where a message has it"),
	OPT_VALUE("store", "DIR", OPT_TEXT, struct sink, store_dir,
		"N.eml with the content octet for octet, N.env with the envelope"),
	OPT_VALUE("stats", NULL, OPT_FLAG, struct sink, stats,
		"a JSON line with all counters at the end"),
	OPT_VALUE("quiet", NULL, OPT_FLAG, struct sink, quiet, "no \"listening on\" lines"),
	OPT_HEADING("Trouble"),
	OPT_FUNC("reply", "POINT=REPLY", opt_reply,
		"answer POINT with \"550 5.1.1 text\"; \\n in the text starts another line of the "
		"reply"),
	OPT_BOUNDED("reply-share", "P", OPT_REAL, struct sink, reply_share, 0, 1,
		"only with this probability (1)"),
	OPT_FUNC("drop", "POINT", opt_drop,
		"close the connection at POINT, without the reply; a message dropped at dot is not "
		"kept"),
	OPT_BOUNDED("drop-share", "P", OPT_REAL, struct sink, drop_share, 0, 1,
		"only with this probability (1)"),
	OPT_VALUE("drop-after", "N", OPT_SIZE, struct sink, drop_after,
		"with --drop body: not before this many octets of the body"),
	OPT_VALUE("drop-reset", NULL, OPT_FLAG, struct sink, drop_reset, "close with a reset"),
	OPT_VALUE("seed", "N", OPT_COUNT, struct sink, seed, "of the two probabilities (1)"),
	DELAY(AT_GREETING, "greeting"),
	DELAY(AT_EHLO, "ehlo"),
	DELAY(AT_STARTTLS, "starttls"),
	DELAY(AT_AUTH, "auth"),
	DELAY(AT_MAIL, "mail"),
	DELAY(AT_RCPT, "rcpt"),
	DELAY(AT_DATA, "data"),
	DELAY(AT_BDAT, "bdat"),
	DELAY(AT_DOT, "dot"),
	DELAY(AT_RSET, "rset"),
	DELAY(AT_NOOP, "noop"),
	DELAY(AT_VRFY, "vrfy"),
	DELAY(AT_QUIT, "quit"),
};

void options_read(struct sink *k, int argc, char **argv)
{
	const struct opts o = {PROGRAM, "--listen ADDR [options]", about, examples, option_rows,
		ARRAY_LEN(option_rows), k};

	opts_read(&o, argc, argv);
	if (k->door_count == 0)
		opts_die(&o, "--listen is missing");
	if (k->starttls && k->tls)
		opts_die(&o, "--starttls or --tls, not both");
	if ((k->starttls || k->tls) != (k->tls_cert && k->tls_key) || !k->tls_cert != !k->tls_key)
		opts_die(&o,
			"--tls-cert and --tls-key go with --starttls or --tls, and each with the "
			"other");
	k->looks = k->print || k->hash || k->store_dir;
	k->dice = k->seed * 0x9e3779b97f4a7c15ull | 1;
}

static void append(char *out, size_t *at, const char *format, ...) PRINTF_LIKE(3, 4);
static void append(char *out, size_t *at, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(out + *at, REPLY_TEXT_BYTES - *at, format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= REPLY_TEXT_BYTES - *at) {
		fprintf(stderr, PROGRAM ": --hostname or --banner is too long\n");
		exit(OPT_EXIT_USAGE);
	}
	*at += (size_t)n;
}

static void ehlo_text(const struct sink *k, bool starttls, char *out)
{
	size_t at = 0;

	append(out, &at, "250-%s\r\n", k->hostname);
	if (k->offer_pipelining)
		append(out, &at, "250-PIPELINING\r\n");
	append(out, &at, "250-SIZE %" PRIu64 "\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n",
		k->size_max);
	if (k->offer_chunking)
		append(out, &at, "250-CHUNKING\r\n250-BINARYMIME\r\n");
	if (starttls)
		append(out, &at, "250-STARTTLS\r\n");
	if (k->offer_auth)
		append(out, &at, "250-AUTH PLAIN LOGIN\r\n");
	append(out, &at, "250 ENHANCEDSTATUSCODES\r\n");
}

void options_texts(struct sink *k)
{
	size_t at = 0;

	ehlo_text(k, k->starttls, k->ehlo);
	ehlo_text(k, false, k->ehlo_secure);
	append(k->helo, &at, "250 %s\r\n", k->hostname);
	at = 0;
	if (k->banner)
		append(k->greeting, &at, "220 %s\r\n", k->banner);
	else
		append(k->greeting, &at, "220 %s ESMTP " PROGRAM "\r\n", k->hostname);
}
