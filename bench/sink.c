/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-sink: an SMTP server that takes mail and does with it what it is told: count, check,
 * print, store; answer late, refuse, hang up. One thread, one ring.
 *
 * RFC 5321 (commands, states, 4.5.2), 2920 (the replies of a pipelining group leave in one send),
 * 3030 (BDAT is framed by count and swallowed when refused), 4954 (AUTH: any credentials are good),
 * 1870, 2034, 3461, 6152, 6531. Strict where laxness would hide a fault of the peer: only CRLF ends
 * a line and only CRLF.CRLF a message.
 *
 * A delay holds the whole session: the command (or the end of the message) waits unread in the
 * stash and what comes behind it too. A client that sends more than the stash holds meanwhile gets
 * 421. An idle session owns its struct, a descriptor and an armed receive; nothing else.
 *
 * Failures: start: see lib/rig.h. Later: a session's trouble ends that session and is counted; a
 * message that cannot be stored is answered 452.
 */
#include "bench/lib/keep.h"
#include "bench/lib/opts.h"
#include "bench/lib/rig.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"
#include "engine/smtp/scan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/un.h>
#include <unistd.h>

#define PROGRAM "ringpost-sink"
#define LISTENERS_MAX 64
#define REPLY_TEXT_BYTES 1024
#define ACCEPT_RETRY_MS 100
#define CELLS_EACH 4

/* The moments that --delay-POINT, --reply POINT= and --drop POINT name. */
#define POINTS(X)                                                            \
	X(AT_GREETING, "greeting", "the greeting")                           \
	X(AT_EHLO, "ehlo", "EHLO and HELO")                                  \
	X(AT_AUTH, "auth", "AUTH")                                           \
	X(AT_MAIL, "mail", "MAIL")                                           \
	X(AT_RCPT, "rcpt", "RCPT")                                           \
	X(AT_DATA, "data", "DATA (the 354)")                                 \
	X(AT_BODY, "body", "the first octets of a body (drop only)")         \
	X(AT_BDAT, "bdat", "each BDAT chunk but the last")                   \
	X(AT_DOT, "dot", "the end of a message: the final dot or BDAT LAST") \
	X(AT_RSET, "rset", "RSET")                                           \
	X(AT_NOOP, "noop", "NOOP")                                           \
	X(AT_VRFY, "vrfy", "VRFY")                                           \
	X(AT_QUIT, "quit", "QUIT")

enum point {
#define X(id, name, text) id,
	POINTS(X)
#undef X
		POINT_COUNT
};

static const char *const point_names[POINT_COUNT] = {
#define X(id, name, text) name,
	POINTS(X)
#undef X
};

/* What one point is told to do instead of the usual. */
struct point_rule {
	uint64_t delay_ms;
	bool drop;
	uint16_t code;	   /* of the reply; 0 = the usual one */
	const char *reply; /* finished wire text; owned by the process */
};

#define SINK_COUNTERS(X) \
	X(sessions)      \
	X(open)          \
	X(commands)      \
	X(messages)      \
	X(recipients)    \
	X(bytes)         \
	X(refused)       \
	X(dropped)       \
	X(aborted)       \
	X(hash_ok)       \
	X(hash_bad)      \
	X(hash_none)     \
	X(store_failed)  \
	X(errors)        \
	X(early_input)   \
	X(timeouts)      \
	X(resets)        \
	X(overloads)     \
	X(accept_failed)

struct counters {
#define X(name) uint64_t name;
	SINK_COUNTERS(X)
#undef X
};

struct sink;

struct door {
	struct sink *sink;
	struct ring_addr addr;
	struct ring_fd fd; /* owns */
	struct ring_op op;
	struct timer retry;
};

struct sink {
	struct rig rig;
	struct slab slab; /* of struct sess */
	struct list sessions;
	struct door door[LISTENERS_MAX];
	unsigned door_count;
	struct point_rule rule[POINT_COUNT];
	struct store store;
	struct counters n;
	uint64_t dice;
	char ehlo[REPLY_TEXT_BYTES], helo[REPLY_TEXT_BYTES], greeting[REPLY_TEXT_BYTES];
	bool printed; /* something waits in stdout's buffer */
	/* options */
	const char *store_dir, *banner, *hostname, *port_file;
	uint64_t size_max, rcpts_max, timeout_us, connections_max, cpu, seed, drop_after;
	double reply_share, drop_share;
	bool print, hash, offer_pipelining, offer_chunking, offer_auth, drop_reset, quiet, stats,
		reuseport, looks;
};

enum phase {
	PH_GREETING, /* the greeting is delayed */
	PH_COMMAND,
	PH_AUTH, /* a line of an AUTH exchange */
	PH_DATA,
	PH_CHUNK,
	PH_CHUNK_END, /* all octets of a chunk are here */
	PH_END,	      /* the whole message is here */
};

struct sess {
	struct stream st;
	struct sink *sink;
	struct list node;
	struct stash stash; /* an unfinished line, or input behind a delay */
	size_t seen;	    /* of the stash's unfinished line, searched */
	struct timer timer; /* the delay while paused, else the idle timeout */
	uint64_t number;
	uint64_t active_ms;
	uint64_t left;	/* octets of the chunk not here yet */
	uint64_t bytes; /* of the message so far */
	uint64_t declared;
	struct scan scan;
	struct keep *keep; /* owns; NULL unless a message is looked at */
	uint32_t rcpts;
	uint8_t phase;
	uint8_t auth_lines; /* of the exchange still to come */
	bool paused, waited, over, eof, skip_line, choked;
	bool spared; /* --drop body: the dice were thrown for this message */
	bool greeted, helo, mail, chunked, last, binary, swallow, too_big, authed;
};

static void on_session_timer(struct timer *t);
static void resume(struct sess *s);

/* ---- replies ---- */

static void say(struct sess *s, struct span text)
{
	stream_put(&s->st, text);
}

#define SAY(s, text) say((s), SPAN_LIT(text "\r\n"))

/* An error reply of the usual kind. */
static void refuse(struct sess *s, struct span text)
{
	s->sink->n.errors++;
	say(s, text);
}

#define REFUSE(s, text) refuse((s), SPAN_LIT(text "\r\n"))

static void finish(struct sess *s)
{
	s->over = true;
	stream_finish(&s->st);
}

static bool dice(struct sink *k, double share)
{
	if (share >= 1)
		return true;
	/* xorshift64*: repeatable with --seed */
	k->dice ^= k->dice >> 12;
	k->dice ^= k->dice << 25;
	k->dice ^= k->dice >> 27;
	return (double)((k->dice * 0x2545f4914f6cdd1dull) >> 11) / 9007199254740992.0 < share;
}

static void pause_for(struct sess *s, uint64_t ms)
{
	s->paused = true;
	timer_set(&s->sink->rig.timers, &s->timer, rig_now_ms(&s->sink->rig) + ms);
}

static void hang_up(struct sess *s)
{
	s->sink->n.dropped++;
	s->over = true;
	if (s->sink->drop_reset)
		stream_reset(&s->st);
	else
		stream_finish(&s->st);
}

enum decision { DECIDE_WAIT, DECIDE_GONE, DECIDE_USUAL, DECIDE_REPLY };

/* What --delay, --drop and --reply say about this moment. WAIT: ask again when resumed. */
static enum decision decide(struct sess *s, enum point p)
{
	const struct point_rule *r = &s->sink->rule[p];

	if (r->delay_ms && !s->waited) {
		pause_for(s, r->delay_ms);
		return DECIDE_WAIT;
	}
	s->waited = false;
	if (r->drop && dice(s->sink, s->sink->drop_share)) {
		hang_up(s);
		return DECIDE_GONE;
	}
	if (r->code && dice(s->sink, s->sink->reply_share))
		return DECIDE_REPLY;
	return DECIDE_USUAL;
}

/* Says the reply that was ordered. True: a positive one, the session goes on as usual. */
static bool say_ordered(struct sess *s, enum point p)
{
	const struct point_rule *r = &s->sink->rule[p];

	say(s, span_str(r->reply));
	if (r->code == 421)
		finish(s);
	if (r->code >= 400)
		s->sink->n.errors++;
	return r->code < 400;
}

enum said { SAID_WAIT, SAID_YES, SAID_NO };

/* The reply of a point: WAIT: none yet (or the session is over), the command is not used up. */
static enum said answer(struct sess *s, enum point p, struct span usual)
{
	switch (decide(s, p)) {
	case DECIDE_WAIT:
	case DECIDE_GONE:
		return SAID_WAIT;
	case DECIDE_REPLY:
		return say_ordered(s, p) ? SAID_YES : SAID_NO;
	case DECIDE_USUAL:
		break;
	}
	say(s, usual);
	return SAID_YES;
}

/* ---- what is kept of a message ---- */

static bool keep_this(struct sess *s)
{
	struct sink *k = s->sink;

	if (!k->looks)
		return true;
	s->keep = keep_new(k->store_dir ? &k->store : NULL, k->hash);
	return s->keep != NULL;
}

/* Body octets as they came; `dots`: dot-stuffed, with the final dot. */
static void body_octets(struct sess *s, struct span in, bool dots)
{
	s->bytes += in.n;
	if (s->sink->size_max && s->bytes > s->sink->size_max + 5)
		s->too_big = true;
	if (!s->keep || s->too_big)
		return;
	keep_body(s->keep, in, dots);
}

static void print_message(struct sess *s)
{
	struct keep *m = s->keep;
	struct json j;

	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("message"));
	json_u64(&j, "n", s->sink->n.messages);
	json_u64(&j, "session", s->number);
	keep_print_envelope(&j, m);
	json_str(&j, "body", s->chunked ? SPAN_LIT("bdat") : SPAN_LIT("data"));
	json_u64(&j, "bytes", m->content.bytes);
	if (s->sink->hash)
		json_hex(&j, "hash", m->content.hash_all);
	if (m->content.id[0])
		json_str(&j, "id", span_str(m->content.id));
	if (s->sink->hash)
		json_str(&j, "check", span_str(content_check_words[content_verdict(&m->content)]));
	if (m->store)
		json_u64(&j, "file", m->file.number);
	json_close(&j);
	putchar('\n');
	s->sink->printed = true;
}

/* ---- the transaction ---- */

static void transaction_reset(struct sess *s)
{
	keep_free(s->keep);
	s->keep = NULL;
	s->mail = s->chunked = s->last = s->binary = s->swallow = s->too_big = s->spared = false;
	s->rcpts = 0;
	s->bytes = 0;
}

/* The message is the sink's now. False: it could not be stored. */
static bool take_message(struct sess *s)
{
	struct sink *k = s->sink;
	struct keep *m = s->keep;

	if (m && !keep_commit(m)) {
		k->n.store_failed++;
		return false;
	}
	k->n.messages++;
	k->n.recipients += s->rcpts;
	/* Nobody looked at it: as on the wire, less the final dot. */
	k->n.bytes += m ? m->content.bytes : s->bytes - (s->chunked ? 0 : 3);
	if (m && k->hash) {
		enum content_check c = content_verdict(&m->content);

		k->n.hash_ok += c == CHECK_OK;
		k->n.hash_bad += c == CHECK_BAD;
		k->n.hash_none += c == CHECK_NONE;
	}
	if (m && k->print)
		print_message(s);
	return true;
}

static bool message_too_big(const struct sess *s)
{
	/* On the wire a DATA body has its stuffing and the dot: what was kept counts, where it was
	 * kept. */
	uint64_t bytes = s->keep ? s->keep->content.bytes : s->bytes;

	return s->too_big ||
	       (s->sink->size_max && bytes > s->sink->size_max + (s->keep || s->chunked ? 0 : 5));
}

/* PH_END: the whole message is here. */
static void message_end(struct sess *s)
{
	enum decision d = decide(s, AT_DOT);

	if (d == DECIDE_WAIT || d == DECIDE_GONE)
		return;
	s->phase = PH_COMMAND;
	if (message_too_big(s)) {
		s->sink->n.refused++;
		REFUSE(s, "552 5.3.4 message too big");
	} else if (d == DECIDE_REPLY && s->sink->rule[AT_DOT].code >= 300) {
		s->sink->n.refused++;
		say_ordered(s, AT_DOT);
	} else if (!take_message(s)) {
		REFUSE(s, "452 4.3.1 cannot store the message");
	} else if (d == DECIDE_REPLY) {
		say_ordered(s, AT_DOT);
	} else {
		SAY(s, "250 2.0.0 taken");
	}
	transaction_reset(s);
}

/* PH_CHUNK_END: a chunk, not the last, is here. */
static void chunk_end(struct sess *s)
{
	enum said said = answer(s, AT_BDAT, SPAN_LIT("250 2.0.0 chunk taken\r\n"));

	if (said == SAID_WAIT)
		return;
	s->phase = PH_COMMAND;
	if (said == SAID_NO)
		transaction_reset(
			s); /* RFC 3030 2: what follows is answered 503 until RSET or MAIL */
}

static void chunk_complete(struct sess *s)
{
	if (s->swallow) {
		s->swallow = false;
		s->phase = PH_COMMAND;
	} else {
		s->phase = s->last ? PH_END : PH_CHUNK_END;
	}
}

/* ---- commands: each returns false when it was not used up (delayed, or the session is over) ----
 */

static bool cmd_helo(struct sess *s, const struct smtp_cmd *c)
{
	bool ehlo = c->verb == SMTP_EHLO;
	struct sink *k = s->sink;

	if (c->args.n == 0) {
		REFUSE(s, "501 5.5.4 EHLO and HELO take a name");
		return true;
	}
	enum said said = answer(s, AT_EHLO, span_str(ehlo ? k->ehlo : k->helo));
	if (said == SAID_WAIT)
		return false;
	transaction_reset(s);
	s->helo = said == SAID_YES;
	return true;
}

static bool mail_params_fine(
	struct sess *s, const struct smtp_path *path, struct smtp_mail_params *p)
{
	struct span bad;

	if (!smtp_mail_params(path->params, p, &bad)) {
		REFUSE(s, "501 5.5.4 bad parameter");
		return false;
	}
	if (p->has_size && s->sink->size_max && p->size > s->sink->size_max) {
		REFUSE(s, "552 5.3.4 message too big");
		return false;
	}
	if (p->body == BODY_BINARYMIME && !s->sink->offer_chunking) {
		REFUSE(s, "555 5.5.4 BINARYMIME is not offered");
		return false;
	}
	return true;
}

static bool cmd_mail(struct sess *s, const struct smtp_cmd *c)
{
	struct smtp_mail_params params;
	struct smtp_path path;

	if (!s->helo) {
		REFUSE(s, "503 5.5.1 EHLO or HELO first");
	} else if (s->mail) {
		REFUSE(s, "503 5.5.1 one MAIL at a time");
	} else if (smtp_path_parse(c->args, false, &path) != PATH_OK) {
		REFUSE(s, "501 5.1.7 bad sender path");
	} else if (mail_params_fine(s, &path, &params)) {
		enum said said = answer(s, AT_MAIL, SPAN_LIT("250 2.1.0 sender fine\r\n"));

		if (said == SAID_WAIT)
			return false;
		if (said == SAID_NO)
			return true;
		transaction_reset(s);
		s->mail = true;
		s->binary = params.body == BODY_BINARYMIME;
		if (!keep_this(s) || !keep_path(s->keep, "MAIL", path.mailbox, path.params))
			finish(s);
	}
	return true;
}

static bool cmd_rcpt(struct sess *s, const struct smtp_cmd *c)
{
	struct smtp_path path;
	struct span bad;

	if (!s->mail || s->chunked) {
		REFUSE(s, "503 5.5.1 MAIL first");
	} else if (smtp_path_parse(c->args, true, &path) != PATH_OK || path.null) {
		REFUSE(s, "501 5.1.3 bad recipient path");
	} else if (!smtp_rcpt_params(path.params, &bad)) {
		REFUSE(s, "501 5.5.4 bad parameter");
	} else if (s->rcpts >= s->sink->rcpts_max) {
		REFUSE(s, "452 4.5.3 too many recipients");
	} else {
		enum said said = answer(s, AT_RCPT, SPAN_LIT("250 2.1.5 recipient fine\r\n"));

		if (said == SAID_WAIT)
			return false;
		if (said == SAID_NO)
			return true;
		s->rcpts++;
		if (!keep_path(s->keep, "RCPT", path.mailbox, path.params))
			finish(s);
	}
	return true;
}

static bool cmd_data(struct sess *s, const struct smtp_cmd *c)
{
	if (!s->mail || s->chunked) {
		REFUSE(s, "503 5.5.1 MAIL first");
	} else if (s->rcpts == 0) {
		REFUSE(s, "554 5.5.1 no valid recipients");
	} else if (s->binary) {
		REFUSE(s, "503 5.5.1 BINARYMIME needs BDAT");
	} else if (c->args.n) {
		REFUSE(s, "501 5.5.4 DATA takes no argument");
	} else {
		enum said said = answer(s, AT_DATA, SPAN_LIT("354 end with <CRLF>.<CRLF>\r\n"));

		if (said == SAID_WAIT)
			return false;
		if (said == SAID_NO) {
			transaction_reset(s);
			return true;
		}
		scan_init(&s->scan, SCAN_PASS);
		s->phase = PH_DATA;
	}
	return true;
}

static bool cmd_bdat(struct sess *s, const struct smtp_cmd *c)
{
	uint64_t size;
	bool last;

	if (!smtp_bdat_parse(c->args, &size, &last)) {
		REFUSE(s, "501 5.5.4 bad chunk size");
		finish(s); /* what follows cannot be told from commands */
		return true;
	}
	s->left = size;
	s->phase = PH_CHUNK;
	s->swallow = true;
	if (!s->sink->offer_chunking) {
		REFUSE(s, "502 5.5.1 BDAT is not offered");
	} else if (!s->mail) {
		REFUSE(s, "503 5.5.1 MAIL first");
	} else if (s->rcpts == 0) {
		REFUSE(s, "554 5.5.1 no valid recipients");
	} else {
		s->swallow = false;
		s->chunked = true;
		s->last = last;
	}
	if (size == 0)
		chunk_complete(s);
	return true;
}

static bool cmd_rset(struct sess *s, const struct smtp_cmd *c)
{
	enum said said = answer(s, AT_RSET, SPAN_LIT("250 2.0.0 reset\r\n"));

	if (said == SAID_WAIT)
		return false;
	transaction_reset(s);
	return true;
}

static bool cmd_noop(struct sess *s, const struct smtp_cmd *c)
{
	return answer(s, AT_NOOP, SPAN_LIT("250 2.0.0 ok\r\n")) != SAID_WAIT;
}

static bool cmd_vrfy(struct sess *s, const struct smtp_cmd *c)
{
	return answer(s, AT_VRFY, SPAN_LIT("252 2.5.2 send it and see\r\n")) != SAID_WAIT;
}

static bool cmd_help(struct sess *s, const struct smtp_cmd *c)
{
	SAY(s, "214 2.0.0 " PROGRAM ": everything sent here is thrown away or kept, as told");
	return true;
}

static bool cmd_quit(struct sess *s, const struct smtp_cmd *c)
{
	if (answer(s, AT_QUIT, SPAN_LIT("221 2.0.0 bye\r\n")) == SAID_WAIT)
		return false;
	finish(s);
	return true;
}

static void auth_done(struct sess *s)
{
	s->phase = PH_COMMAND;
	s->auth_lines = 0;
	s->authed = true;
	SAY(s, "235 2.7.0 welcome");
}

static bool cmd_auth(struct sess *s, const struct smtp_cmd *c)
{
	struct span mechanism;
	bool initial;

	if (!s->sink->offer_auth) {
		REFUSE(s, "502 5.5.1 AUTH is not offered");
		return true;
	}
	if (!s->helo || s->mail || s->authed) {
		REFUSE(s, "503 5.5.1 not now");
		return true;
	}
	bool good = smtp_auth_parse(c->args, &mechanism, &initial);
	bool plain = good && span_ieq(mechanism, SPAN_LIT("PLAIN"));
	bool login = good && span_ieq(mechanism, SPAN_LIT("LOGIN"));
	if (!plain && !login) {
		REFUSE(s, "504 5.5.4 PLAIN or LOGIN");
		return true;
	}
	s->auth_lines = (uint8_t)((plain ? 1 : 2) - (initial ? 1 : 0));
	enum decision d = decide(s, AT_AUTH);
	if (d == DECIDE_WAIT || d == DECIDE_GONE)
		return false;
	if (d == DECIDE_REPLY) {
		s->authed = say_ordered(s, AT_AUTH);
	} else if (s->auth_lines == 0) {
		auth_done(s);
	} else {
		s->phase = PH_AUTH;
		say(s, plain	  ? SPAN_LIT("334 \r\n")
			: initial ? SPAN_LIT("334 UGFzc3dvcmQ6\r\n")
				  : SPAN_LIT("334 VXNlcm5hbWU6\r\n"));
	}
	return true;
}

/* A line of the exchange: its octets are of no interest. */
static void auth_line(struct sess *s, struct span line)
{
	if (span_eq(line, SPAN_LIT("*"))) {
		s->phase = PH_COMMAND;
		REFUSE(s, "501 5.7.0 given up");
	} else if (--s->auth_lines == 0) {
		auth_done(s);
	} else {
		SAY(s, "334 UGFzc3dvcmQ6");
	}
}

typedef bool handler(struct sess *s, const struct smtp_cmd *c);

static handler *const handlers[SMTP_VERB_COUNT] = {
	[SMTP_HELO] = cmd_helo,
	[SMTP_EHLO] = cmd_helo,
	[SMTP_AUTH] = cmd_auth,
	[SMTP_MAIL] = cmd_mail,
	[SMTP_RCPT] = cmd_rcpt,
	[SMTP_DATA] = cmd_data,
	[SMTP_BDAT] = cmd_bdat,
	[SMTP_RSET] = cmd_rset,
	[SMTP_NOOP] = cmd_noop,
	[SMTP_VRFY] = cmd_vrfy,
	[SMTP_HELP] = cmd_help,
	[SMTP_QUIT] = cmd_quit,
};

static bool command(struct sess *s, struct span line)
{
	struct smtp_cmd c;

	if (!smtp_line_clean(line) || !smtp_cmd_parse(line, &c)) {
		REFUSE(s, "500 5.5.2 not a command");
		return true;
	}
	if (!s->greeted && c.verb != SMTP_QUIT) {
		REFUSE(s, "503 5.5.1 no service here");
		return true;
	}
	if (!handlers[c.verb]) {
		refuse(s, c.verb == SMTP_OTHER ? SPAN_LIT("500 5.5.1 unknown command\r\n")
					       : SPAN_LIT("502 5.5.1 not offered\r\n"));
		return true;
	}
	return handlers[c.verb](s, &c);
}

/* ---- input ---- */

/* A line that passed its limit: answered once, the rest of it thrown away. */
static size_t skip_long_line(struct sess *s, struct span in)
{
	const uint8_t *lf = memchr(in.p, '\n', in.n);

	if (!lf)
		return in.n;
	s->skip_line = false;
	return (size_t)(lf - in.p) + 1;
}

/* One line. Octets used; 0: not complete, or held by a delay. */
static size_t eat_line(struct sess *s, struct span in)
{
	size_t next = 0, max = s->phase == PH_AUTH ? SMTP_AUTH_BYTES_MAX : SMTP_COMMAND_BYTES_MAX;
	struct span line;

	if (s->skip_line)
		return skip_long_line(s, in);
	switch (smtp_line(in, &s->seen, max, &line, &next)) {
	case LINE_MORE:
		return 0;
	case LINE_BARE_LF:
		REFUSE(s, "500 5.5.2 lines end with CRLF");
		break;
	case LINE_LONG:
		REFUSE(s, "500 5.5.2 line too long");
		s->skip_line = true;
		return skip_long_line(s, in);
	case LINE_OK:
		if (s->phase == PH_AUTH)
			auth_line(s, line);
		else if (!command(s, line))
			return 0;
		break;
	}
	s->sink->n.commands++;
	/* Who was not offered PIPELINING may not send on, and nobody may before a 354. */
	if (next < in.n &&
		(s->phase == PH_DATA || (!s->sink->offer_pipelining && s->phase == PH_COMMAND)))
		s->sink->n.early_input++;
	return next;
}

/* --drop body: not before --drop-after octets. False: the session is over. */
static bool body_goes_on(struct sess *s)
{
	const struct point_rule *r = &s->sink->rule[AT_BODY];

	if (!r->drop || s->swallow || s->bytes < s->sink->drop_after)
		return true;
	if (s->spared)
		return true;
	s->spared = !dice(s->sink, s->sink->drop_share);
	if (!s->spared)
		hang_up(s);
	return !s->over;
}

static size_t eat_data(struct sess *s, struct span in)
{
	struct scan_step step;

	scan_feed(&s->scan, in, &step);
	body_octets(s, span_of(in.p, step.used), true);
	if (!body_goes_on(s))
		return step.used;
	if (step.end == SCAN_DONE)
		s->phase = PH_END;
	return step.used;
}

static size_t eat_chunk(struct sess *s, struct span in)
{
	size_t n = MIN_OF(s->left, in.n);

	s->left -= n;
	if (!s->swallow) {
		body_octets(s, span_of(in.p, n), false);
		if (!body_goes_on(s))
			return n;
	}
	if (s->left == 0)
		chunk_complete(s);
	return n;
}

/* Uses what it can; the rest belongs into the stash. */
static size_t eat(struct sess *s, struct span in)
{
	size_t at = 0, n = 1;

	while (!s->paused && !s->over && n) {
		struct span rest = span_drop(in, at);

		switch ((enum phase)s->phase) {
		case PH_CHUNK_END:
			chunk_end(s);
			continue;
		case PH_END:
			message_end(s);
			continue;
		case PH_GREETING:
			return at;
		default:
			break;
		}
		if (rest.n == 0)
			break;
		if (s->phase == PH_DATA)
			n = eat_data(s, rest);
		else if (s->phase == PH_CHUNK)
			n = eat_chunk(s, rest);
		else
			n = eat_line(s, rest);
		at += n;
	}
	return at;
}

static void keep_input(struct sess *s, struct span rest)
{
	if (rest.n == 0 || s->over)
		return;
	if (!stash_add(&s->stash, &s->sink->rig.stashes, rest)) {
		s->sink->n.overloads++;
		SAY(s, "421 4.3.1 too much at once");
		finish(s);
	}
}

static void eat_stash(struct sess *s)
{
	if (s->stash.len) {
		size_t used = eat(s, stash_span(&s->stash));

		stash_drop(&s->stash, &s->sink->rig.stashes, used);
	} else {
		eat(s, SPAN_NONE);
	}
}

/* Backlog, or a delay: no more input for now. */
static void mind_reading(struct sess *s)
{
	if (s->over || s->eof)
		return;
	s->choked = s->choked || stream_backlog(&s->st) > STREAM_HIGH_BYTES;
	stream_read(&s->st, !s->choked && !(s->paused && s->stash.len));
}

/* An unfinished line waits: complete it with as little copying as there is. */
static struct span finish_stashed_line(struct sess *s, struct span data)
{
	const uint8_t *lf = memchr(data.p, '\n', data.n);
	size_t n = lf ? (size_t)(lf - data.p) + 1 : data.n;

	keep_input(s, span_of(data.p, n));
	eat_stash(s);
	return span_drop(data, n);
}

static void on_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->active_ms = rig_now_ms(&s->sink->rig);
	while (s->stash.len && !s->paused && !s->over && data.n)
		data = finish_stashed_line(s, data);
	if (s->stash.len == 0 && !s->over)
		data = span_drop(data, eat(s, data));
	keep_input(s, data);
	mind_reading(s);
}

static void greet(struct sess *s)
{
	enum said said = answer(s, AT_GREETING, span_str(s->sink->greeting));

	if (said == SAID_WAIT)
		return;
	s->phase = PH_COMMAND;
	s->greeted = said == SAID_YES;
}

static void resume(struct sess *s)
{
	s->paused = false;
	s->waited = true;
	if (s->phase == PH_GREETING)
		greet(s);
	eat_stash(s);
	if (!s->paused && !s->over) {
		if (s->eof)
			finish(s);
		else
			timer_set(&s->sink->rig.timers, &s->timer,
				rig_now_ms(&s->sink->rig) + s->sink->timeout_us / 1000);
	}
	mind_reading(s);
}

/* ---- a session's life ---- */

static void on_session_timer(struct timer *t)
{
	struct sess *s = CONTAINER_OF(t, struct sess, timer);
	struct sink *k = s->sink;
	uint64_t due = s->active_ms + k->timeout_us / 1000;

	if (s->paused) {
		s->active_ms = rig_now_ms(&k->rig);
		resume(s);
	} else if (due > rig_now_ms(&k->rig)) {
		timer_set(&k->rig.timers, t, due);
	} else if (s->over) {
		stream_close(&s->st); /* the last reply is not being read */
	} else {
		k->n.timeouts++;
		SAY(s, "421 4.4.2 too long silent");
		finish(s);
		timer_set(&k->rig.timers, t, rig_now_ms(&k->rig) + 1000);
	}
}

static void on_end(struct stream *st, enum ring_res why)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->eof = true;
	if (why != RING_EOF) {
		s->sink->n.resets++;
		s->over = true;
		stream_close(st);
	} else if (!s->paused) {
		finish(s); /* commands that were complete have their replies */
	}
}

static void on_drained(struct stream *st)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->choked = false;
	mind_reading(s);
}

static void on_broken(struct stream *st, enum ring_res why)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->sink->n.resets++;
	s->over = true;
	stream_close(st);
}

static void on_closed(struct stream *st)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);
	struct sink *k = s->sink;

	if (s->mail)
		k->n.aborted++;
	keep_free(s->keep);
	stash_clear(&s->stash, &k->rig.stashes);
	timer_stop(&k->rig.timers, &s->timer);
	list_remove(&s->node);
	k->n.open--;
	slab_put(&k->slab, s);
}

static const struct stream_events session_events = {
	.on_bytes = on_bytes,
	.on_end = on_end,
	.on_drained = on_drained,
	.on_broken = on_broken,
	.on_closed = on_closed,
};

static void session_open(struct sink *k, struct ring_fd fd)
{
	struct sess *s = slab_get(&k->slab);

	if (!s) {
		k->n.overloads++;
		ring_close_fd(k->rig.ring, &fd);
		return;
	}
	memset(s, 0, sizeof(*s));
	s->sink = k;
	s->number = ++k->n.sessions;
	s->active_ms = rig_now_ms(&k->rig);
	list_init(&s->node);
	list_push_back(&k->sessions, &s->node);
	timer_init(&s->timer, on_session_timer);
	k->n.open++;
	stream_adopt(&s->st, &k->rig.streams, &session_events, fd);
	timer_set(&k->rig.timers, &s->timer, s->active_ms + k->timeout_us / 1000);
	greet(s);
	mind_reading(s);
}

/* ---- doors ---- */

static void on_accept(struct ring_op *op, const struct ring_done *d)
{
	struct door *o = CONTAINER_OF(op, struct door, op);
	struct sink *k = o->sink;

	if (d->res == RING_OK && ring_fd_ok(d->fd))
		session_open(k, d->fd);
	if (d->more || rig_stopped())
		return;
	/* Out of descriptors and the like: the backlog waits, sessions that end make room (U14). */
	if (d->res != RING_OK)
		k->n.accept_failed++;
	if (d->res == RING_OK || d->res == RING_CONNABORTED)
		ring_accept(k->rig.ring, op, o->fd);
	else
		timer_set(&k->rig.timers, &o->retry, rig_now_ms(&k->rig) + ACCEPT_RETRY_MS);
}

static void on_accept_retry(struct timer *t)
{
	struct door *o = CONTAINER_OF(t, struct door, retry);

	ring_accept(o->sink->rig.ring, &o->op, o->fd);
}

static void door_open(struct sink *k, struct door *o)
{
	char text[ADDR_TEXT_BYTES];
	enum ring_res res = listen_open(&o->addr, 4096, k->reuseport, &o->fd);

	if (res != RING_OK) {
		fprintf(stderr, PROGRAM ": cannot listen on %s: %s (%s)\n",
			addr_text(&o->addr, text), ring_res_text(res), ring_res_word(res));
		exit(RIG_EXIT_UNAVAILABLE);
	}
	if (ring_local_addr(k->rig.ring, o->fd, &o->addr) != RING_OK)
		exit(RIG_EXIT_UNAVAILABLE);
	o->sink = k;
	o->op.done = on_accept;
	timer_init(&o->retry, on_accept_retry);
	ring_accept(k->rig.ring, &o->op, o->fd);
	if (!k->quiet)
		printf("listening on %s\n", addr_text(&o->addr, text));
}

/* One line per listener: the port, or the path of a Unix socket. Under its name only when complete.
 */
static void write_port_file(const struct sink *k)
{
	char part[4096], text[ADDR_TEXT_BYTES];

	snprintf(part, sizeof(part), "%s.part", k->port_file);
	FILE *f = fopen(part, "w");
	for (unsigned i = 0; f && i < k->door_count; i++) {
		const struct ring_addr *a = &k->door[i].addr;

		if (addr_port(a))
			fprintf(f, "%u\n", addr_port(a));
		else
			fprintf(f, "%s\n", addr_text(a, text));
	}
	if (!f || fclose(f) != 0 || rename(part, k->port_file) != 0) {
		fprintf(stderr, PROGRAM ": cannot write %s: %s\n", k->port_file, strerror(errno));
		exit(RIG_EXIT_UNAVAILABLE);
	}
}

static void doors_close(struct sink *k)
{
	for (unsigned i = 0; i < k->door_count; i++) {
		struct door *o = &k->door[i];

		timer_stop(&k->rig.timers, &o->retry);
		if (ring_op_armed(&o->op))
			ring_cancel(k->rig.ring, &o->op);
	}
}

/* ---- options ---- */

static enum point find_point(const char *name, size_t n)
{
	unsigned p = 0;

	while (p < POINT_COUNT &&
		(strlen(point_names[p]) != n || memcmp(point_names[p], name, n) != 0))
		p++;
	return (enum point)p;
}

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
	enum point p = find_point(arg, strlen(arg));

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
	enum point p = eq ? find_point(arg, (size_t)(eq - arg)) : POINT_COUNT;
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
	"POINT is one of: greeting ehlo auth mail rcpt data body bdat dot rset noop vrfy quit.\n"
	"TERM and INT end it: exit status 0.";

static const char examples[] = "  ringpost-sink --listen 127.0.0.1:2525 --print\n"
			       "  ringpost-sink --listen 127.0.0.1:0 --port-file /tmp/port --store "
			       "/tmp/mail --hash --stats\n"
			       "  ringpost-sink --listen unix:/tmp/sink --reply rcpt=\"550 5.1.1 "
			       "nobody\" --reply-share 0.1\n"
			       "  ringpost-sink --listen '[::1]:2525' --delay-dot 500 --drop dot "
			       "--drop-share 0.01 --drop-reset\n";

static void defaults(struct sink *k)
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

static void read_options(struct sink *k, int argc, char **argv)
{
	const struct opts o = {PROGRAM, "--listen ADDR [options]", about, examples, option_rows,
		ARRAY_LEN(option_rows), k};

	opts_read(&o, argc, argv);
	if (k->door_count == 0)
		opts_die(&o, "--listen is missing");
	k->looks = k->print || k->hash || k->store_dir;
	k->dice = k->seed * 0x9e3779b97f4a7c15ull | 1;
}

/* ---- the whole ---- */

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

static void prepare_texts(struct sink *k)
{
	size_t at = 0;

	append(k->ehlo, &at, "250-%s\r\n", k->hostname);
	if (k->offer_pipelining)
		append(k->ehlo, &at, "250-PIPELINING\r\n");
	append(k->ehlo, &at, "250-SIZE %" PRIu64 "\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n",
		k->size_max);
	if (k->offer_chunking)
		append(k->ehlo, &at, "250-CHUNKING\r\n250-BINARYMIME\r\n");
	if (k->offer_auth)
		append(k->ehlo, &at, "250-AUTH PLAIN LOGIN\r\n");
	append(k->ehlo, &at, "250 ENHANCEDSTATUSCODES\r\n");
	at = 0;
	append(k->helo, &at, "250 %s\r\n", k->hostname);
	at = 0;
	if (k->banner)
		append(k->greeting, &at, "220 %s\r\n", k->banner);
	else
		append(k->greeting, &at, "220 %s ESMTP " PROGRAM "\r\n", k->hostname);
}

static void start(struct sink *k)
{
	uint32_t allowed = rig_connections_allowed();
	uint32_t n = k->connections_max ? (uint32_t)k->connections_max : MIN_OF(allowed, 65536u);
	const struct rig_conf rc = {
		.program = PROGRAM,
		.connections = n,
		.cells_each = CELLS_EACH,
		.cpu = k->cpu == UINT64_MAX ? -1 : (int)k->cpu,
	};

	prepare_texts(k);
	if (k->store_dir && !store_open(&k->store, k->store_dir)) {
		fprintf(stderr, PROGRAM ": cannot use %s: %s\n", k->store_dir, strerror(errno));
		exit(RIG_EXIT_UNAVAILABLE);
	}
	rig_open(&k->rig, &rc);
	if (!slab_init(&k->slab, "sessions", sizeof(struct sess), n)) {
		fprintf(stderr, PROGRAM ": no memory for %" PRIu32 " sessions\n", n);
		exit(RIG_EXIT_UNAVAILABLE);
	}
	for (unsigned i = 0; i < k->door_count; i++)
		door_open(k, &k->door[i]);
	if (k->port_file)
		write_port_file(k);
	fflush(stdout);
}

static bool doors_busy(const struct sink *k)
{
	for (unsigned i = 0; i < k->door_count; i++)
		if (ring_op_armed(&k->door[i].op))
			return true;
	return false;
}

static void turn(struct sink *k)
{
	rig_turn(&k->rig, UINT64_MAX);
	streams_flush(&k->rig.streams);
	if (k->printed) {
		k->printed = false;
		fflush(stdout);
	}
}

static void stop(struct sink *k)
{
	doors_close(k);
	LIST_FOR(it, &k->sessions)
	{
		struct sess *s = CONTAINER_OF(it, struct sess, node);

		s->over = true;
		stream_close(&s->st);
	}
	while (doors_busy(k) || !list_empty(&k->sessions)) {
		streams_flush(&k->rig.streams);
		if (!doors_busy(k) && list_empty(&k->sessions))
			break;
		turn(k);
	}
	for (unsigned i = 0; i < k->door_count; i++) {
		const struct sockaddr_un *un = (const void *)&k->door[i].addr.ss;

		listen_close(&k->door[i].fd);
		if (un->sun_family == AF_UNIX && un->sun_path[0])
			unlink(un->sun_path);
	}
}

static void print_stats(struct sink *k)
{
	const struct ring_stats *r = ring_stats(k->rig.ring);
	struct json j;

	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("stats"));
#define X(name) json_u64(&j, #name, k->n.name);
	SINK_COUNTERS(X)
#undef X
#define X(name, text) json_u64(&j, "ring_" #name, r->name);
	RING_STATS(X)
#undef X
	json_num(&j, "cpu_s", rig_cpu_seconds());
	json_close(&j);
	putchar('\n');
}

int main(int argc, char **argv)
{
	static struct sink sink; /* large; lives as long as the process */
	struct sink *k = &sink;

	defaults(k);
	read_options(k, argc, argv);
	start(k);
	while (!rig_stopped())
		turn(k);
	stop(k);
	if (k->stats)
		print_stats(k);
	rig_close(&k->rig);
	slab_fini(&k->slab);
	if (k->store_dir)
		store_close(&k->store);
	for (unsigned p = 0; p < POINT_COUNT; p++)
		free((void *)(uintptr_t)k->rule[p].reply);
	fflush(stdout);
	return 0;
}
