/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Client -> upstream: command lines, one handler per verb. A handler either passes the line on as
 * it was written and queues a slot for the upstream's reply, or queues our own reply in its place,
 * or says LATER: the line stays where it is and is read again when something has changed.
 *
 * What is refused here never reaches the upstream, and what follows is judged by what the upstream
 * was told, not by what the client asked for: a RCPT behind a refused MAIL meets 503 here.
 */
#include "engine/session/session_int.h"

#include "engine/smtp/octets.h"

enum outcome { DONE, LATER };

struct command {
	struct smtp_cmd cmd;
	struct span raw; /* the line with its CRLF */
	size_t behind;	 /* octets received behind it, so far */
};

typedef enum outcome verb_fn(struct session *s, const struct command *c);

static enum outcome refuse(struct session *s, enum reply_id id)
{
	queue_local(s, &sess_replies[id]);
	return DONE;
}

static enum outcome refuse_bad(struct session *s, enum reply_id id)
{
	STAT_INC(s->core->stats, commands_bad);
	return refuse(s, id);
}

/* The link is there. */
static void pass_now(
	struct session *s, const struct command *c, enum slot_kind kind, bool sync, struct txn *t)
{
	stream_put(&s->link->st, c->raw);
	queue_upstream(s, kind, sync, t);
}

static enum outcome pass(struct session *s, const struct command *c, enum slot_kind kind, bool sync)
{
	if (!sess_need_link(s))
		return LATER;
	pass_now(s, c, kind, sync, NULL);
	return DONE;
}

/* False: the line stays where it is. *no: the refusal, or NULL. */
static bool ask(struct session *s, struct hook_event ev, const struct local_reply **no)
{
	*no = NULL;
	/* A line that waited (for a link, for another verdict) is not asked about twice. */
	if (s->asked & 1u << ev.point)
		return true;
	if (sess_ask(s, &ev, no) == HOOK_LATER)
		return false;
	s->asked |= (uint16_t)(1u << ev.point);
	return true;
}

static void tell(struct session *s, enum hook_point point)
{
	if (!(s->asked & 1u << point))
		sess_tell(s, &(struct hook_event){.point = point});
	s->asked |= (uint16_t)(1u << point);
}

/* ---- session commands ---- */

/* One that is too long to be kept (or cannot be) leaves no trace: take_hello() sees that. */
static void remember_hello(struct session *s, const struct command *c)
{
	bool fits = c->raw.n <= sizeof(s->hello);

	s->asked_ehlo = c->cmd.verb == SMTP_EHLO;
	if (s->hello_ok) {
		stash_clear(&s->hello_asked, &s->core->stashes);
		if (fits)
			(void)!stash_add(&s->hello_asked, &s->core->stashes, c->raw);
		return;
	}
	s->hello_n = fits ? (uint16_t)c->raw.n : 0;
	memcpy(s->hello, c->raw.p, s->hello_n);
}

static enum outcome on_hello(struct session *s, const struct command *c)
{
	struct span args = c->cmd.args;
	const struct local_reply *no;
	/* A server may read no further than the first word: neither may a rule. */
	const struct hook_event ev = {.point = HOOK_EHLO, .helo = span_take_word(&args)};

	if (!ask(s, ev, &no))
		return LATER;
	if (no) {
		if (!s->hello_ok)
			remember_hello(s, c); /* for the record */
		queue_local(s, no);
		return DONE;
	}
	if (!sess_need_link(s))
		return LATER;
	pass_now(s, c, SLOT_HELLO, true, NULL);
	remember_hello(s, c);
	return DONE;
}

static enum outcome on_auth(struct session *s, const struct command *c)
{
	struct span mech = SPAN_NONE;
	bool initial = false;
	const struct local_reply *no;

	if (!smtp_auth_parse(c->cmd.args, &mech, &initial))
		return refuse_bad(s, REPLY_BAD_PARAM);
	if (!ask(s, (struct hook_event){.point = HOOK_AUTH, .mechanism = mech}, &no))
		return LATER;
	if (no) {
		queue_local(s, no);
		return DONE;
	}
	if (!sess_need_link(s))
		return LATER;
	pass_now(s, c, SLOT_AUTH, true, NULL);
	STAT_INC(s->core->stats, auth_exchanges);
	size_t n = MIN_OF(mech.n, sizeof(s->auth_mech) - 1);
	memcpy(s->auth_mech, mech.p, n);
	s->auth_mech[n] = '\0';
	s->auth_code = 0;
	return DONE;
}

static enum outcome on_starttls(struct session *s, const struct command *c)
{
	if (s->lis->starttls == STARTTLS_NONE)
		return refuse(s, REPLY_REFUSED_VERB);
	/* Nothing may stand behind it (RFC 3207 4): it would cross into what TLS protects. */
	if (c->behind > 0) {
		STAT_INC(s->core->stats, starttls_injection);
		queue_local(s, &sess_replies[REPLY_BEHIND_STARTTLS]);
		s->end_when_idle = END_INJECTION;
		return DONE;
	}
	return pass(s, c, SLOT_STARTTLS, true);
}

static enum outcome on_quit(struct session *s, const struct command *c)
{
	if (link_up(s->link))
		return pass(s, c, SLOT_QUIT, true);
	queue_local(s, &sess_replies[REPLY_BYE]);
	struct slot *slot = queue_tail(s);
	slot->kind = SLOT_QUIT;
	slot->sync = true;
	return DONE;
}

static enum outcome on_xclient(struct session *s, const struct command *c)
{
	return pass(s, c, SLOT_XCLIENT, true);
}

static enum outcome on_stateful(struct session *s, const struct command *c)
{
	return pass(s, c, SLOT_STATEFUL, (smtp_verb_flags(c->cmd.verb) & SMTP_F_SYNC) != 0);
}

static enum outcome on_other(struct session *s, const struct command *c)
{
	return pass(s, c, SLOT_COMMAND, (smtp_verb_flags(c->cmd.verb) & SMTP_F_SYNC) != 0);
}

/* ---- mail transactions ---- */

static enum outcome on_rset(struct session *s, const struct command *c)
{
	tell(s, HOOK_RESET);
	if (!s->link && !s->bound) {
		queue_local(s, &sess_replies[REPLY_DONE]);
	} else if (pass(s, c, SLOT_COMMAND, false) == LATER) {
		return LATER;
	}
	txn_leave(s, "rset");
	return DONE;
}

static enum reply_id path_reply(enum path_res res, bool rcpt)
{
	if (res == PATH_BAD_PARAM)
		return REPLY_BAD_PARAM;
	return rcpt ? REPLY_BAD_RECIPIENT : REPLY_BAD_SENDER;
}

/* Why this MAIL is refused here; REPLY_COUNT: it is not. */
static enum reply_id mail_objection(struct session *s, struct span args, struct smtp_path *path)
{
	struct smtp_mail_params par;
	struct span bad;
	enum path_res res = smtp_path_parse(args, false, path);

	if (res != PATH_OK)
		return path_reply(res, false);
	if (!smtp_mail_params(path->params, &par, &bad))
		return REPLY_BAD_PARAM;
	if (s->lis->limits.message && par.has_size && par.size > s->lis->limits.message) {
		STAT_INC(s->core->stats, size_refused);
		return REPLY_TOO_BIG;
	}
	return REPLY_COUNT;
}

static enum outcome on_mail(struct session *s, const struct command *c)
{
	struct smtp_path path;
	bool nested = s->txn != NULL;
	enum reply_id no;
	const struct local_reply *refused;

	/* While the fate of an open transaction is not known, neither is what this MAIL means. */
	if (nested && s->q_count > 0)
		return LATER;
	no = mail_objection(s, c->cmd.args, &path);
	if (no != REPLY_COUNT)
		return no == REPLY_TOO_BIG ? refuse(s, no) : refuse_bad(s, no);
	if (!ask(s, (struct hook_event){.point = HOOK_MAIL, .path = &path}, &refused))
		return LATER;
	if (refused) {
		queue_local(s, refused);
		return DONE;
	}
	if (!sess_need_link(s))
		return LATER;
	struct txn *t = txn_new(s, &path);
	if (!t)
		return refuse(s, REPLY_NO_TXN);
	t->nested = nested;
	pass_now(s, c, SLOT_MAIL, nested, t);
	if (nested)
		txn_unref(t);
	else
		s->txn = t;
	return DONE;
}

static enum outcome on_rcpt(struct session *s, const struct command *c)
{
	struct txn *t = s->txn;
	struct smtp_path path;
	struct span bad;
	const struct local_reply *refused;
	enum path_res res;

	if (!t)
		return refuse(s, REPLY_NEED_MAIL);
	if (t->refused) {
		queue_local(s, t->refused);
		return DONE;
	}
	res = smtp_path_parse(c->cmd.args, true, &path);
	if (res != PATH_OK)
		return refuse_bad(s, path_reply(res, true));
	if (!smtp_rcpt_params(path.params, &bad))
		return refuse_bad(s, REPLY_BAD_PARAM);
	if (t->rcpt_ok + t->rcpt_pending >= s->lis->limits.recipients) {
		STAT_INC(s->core->stats, limit_recipients);
		return refuse(s, REPLY_MANY_RCPT);
	}
	if (!ask(s, (struct hook_event){.point = HOOK_RCPT, .path = &path}, &refused))
		return LATER;
	if (refused) {
		txn_rcpt_refused(t, &path);
		t->rcpt_local++;
		if (t->rcpt_ok == 0)
			txn_reject(t, "rcpt", NULL, refused, false);
		queue_local(s, refused);
		return DONE;
	}
	pass_now(s, c, SLOT_RCPT, false, t);
	txn_rcpt_asked(t, &path);
	return DONE;
}

/* A server that does not know BDAT would read the octets of a chunk as commands. */
static bool chunking_shown(const struct session *s)
{
	return caps_has(&s->caps, EXT_CHUNKING) && s->lis->ehlo.policy[EXT_CHUNKING] != EXT_STRIP;
}

/* Why no body can come now; NULL: it can. A transaction that is not refused has its link: losing
 * the link refuses it. */
static const struct local_reply *body_objection(struct session *s, bool chunk)
{
	struct txn *t = s->txn;

	if (chunk && !chunking_shown(s))
		return &sess_replies[REPLY_REFUSED_VERB];
	if (!t)
		return &sess_replies[REPLY_NEED_MAIL];
	if (t->refused)
		return t->refused;
	if (!chunk && t->chunked)
		return &sess_replies[REPLY_NOT_BOTH];
	if (t->rcpt_ok + t->rcpt_pending + t->rcpt_failed == 0)
		return &sess_replies[t->rcpt_local ? REPLY_NO_RCPT : REPLY_NEED_RCPT];
	return NULL;
}

static enum outcome on_data(struct session *s, const struct command *c)
{
	const struct local_reply *no = body_objection(s, false);

	if (no) {
		queue_local(s, no);
		return DONE;
	}
	if (!ask(s, (struct hook_event){.point = HOOK_DATA}, &no))
		return LATER;
	if (no) {
		txn_reject(s->txn, "data", NULL, no, false);
		queue_local(s, no);
		return DONE;
	}
	pass_now(s, c, SLOT_DATA, true, s->txn);
	s->txn->stage = "data";
	return DONE;
}

/* A message that is refused between its chunks: the upstream forgets it, the link stays. */
static void take_back_chunks(struct session *s, const struct local_reply *r)
{
	s->txn->refused = r;
	txn_reject(s->txn, "body", NULL, r, true);
	if (link_up(s->link)) {
		stream_put(&s->link->st, SPAN_LIT("RSET\r\n"));
		queue_upstream(s, SLOT_DISCARD, false, NULL);
	}
}

/* Why this chunk ends the message, as ask(). A hook's verdict on the end of the data comes before
 * the last chunk leaves. */
static bool chunk_objection(
	struct session *s, uint64_t size, bool last, const struct local_reply **no)
{
	uint64_t max = s->lis->limits.message;

	if (max && (size > max || s->txn->bytes > max - size)) {
		STAT_INC(s->core->stats, size_refused);
		*no = &sess_replies[REPLY_TOO_BIG];
		return true;
	}
	if (!s->txn->chunked && !ask(s, (struct hook_event){.point = HOOK_DATA}, no))
		return false;
	return *no || !last || ask(s, (struct hook_event){.point = HOOK_END_OF_DATA}, no);
}

static void pass_chunk(struct session *s, const struct command *c, uint64_t size, bool last)
{
	pass_now(s, c, last ? SLOT_FINAL : SLOT_CHUNK, false, s->txn);
	queue_hold_tail(s);
	s->chunk_last = last;
	s->txn->stage = "body";
	s->txn->chunked = s->txn->body_begun = true;
	if (!s->txn->body_us)
		s->txn->body_us = ring_now_us(s->core->ring);
	chunk_begin(s, size, BODY_PASS);
}

static enum outcome on_bdat(struct session *s, const struct command *c)
{
	uint64_t size;
	bool last;
	const struct local_reply *no;

	/* Exim knows a verb by the space behind it and would read the octets behind a tab as
	 * commands. */
	if (memchr(c->raw.p, '\t', c->raw.n) || !smtp_bdat_parse(c->cmd.args, &size, &last)) {
		STAT_INC(s->core->stats, commands_bad);
		queue_local(s, &sess_replies[REPLY_BAD_BDAT]);
		s->end_when_idle = END_BAD_BDAT;
		return DONE;
	}
	no = body_objection(s, true);
	if (!no) {
		if (!chunk_objection(s, size, last, &no))
			return LATER;
		if (no)
			take_back_chunks(s, no);
		/* Nothing of the message is to come any more. */
		if (no && last)
			txn_leave(s, NULL);
	}
	STAT_INC(s->core->stats, bdat_chunks);
	if (no) {
		queue_local(s, no);
		if (s->end_when_idle == END_HOOK)
			return DONE; /* its octets are read no more */
		s->chunk_last = false;
		chunk_begin(s, size, BODY_SWALLOW);
		return DONE;
	}
	pass_chunk(s, c, size, last);
	return DONE;
}

/* ---- dispatch ---- */

static verb_fn *const verbs[SMTP_VERB_COUNT] = {
	[SMTP_HELO] = on_hello,
	[SMTP_EHLO] = on_hello,
	[SMTP_MAIL] = on_mail,
	[SMTP_RCPT] = on_rcpt,
	[SMTP_DATA] = on_data,
	[SMTP_BDAT] = on_bdat,
	[SMTP_RSET] = on_rset,
	[SMTP_QUIT] = on_quit,
	[SMTP_AUTH] = on_auth,
	[SMTP_STARTTLS] = on_starttls,
	[SMTP_XCLIENT] = on_xclient,
	[SMTP_XFORWARD] = on_stateful,
	[SMTP_OTHER] = on_stateful,
};

static bool refused_verb(const struct session *s, enum smtp_verb v)
{
	bool for_trusted = v == SMTP_XCLIENT || v == SMTP_XFORWARD;

	return (smtp_verb_flags(v) & SMTP_F_REFUSE) && !(for_trusted && s->trusted);
}

/* Postfix's smtpd_junk_command_limit: what brings no mail nearer is an error beyond a limit. */
static void count_junk(struct session *s, enum smtp_verb v)
{
	if (!(smtp_verb_flags(v) & SMTP_F_JUNK))
		return;
	if (++s->junk > (s->core->pressure ? 1 : s->lis->limits.junk)) {
		STAT_INC(s->core->stats, limit_junk);
		sess_count_error(s);
	}
}

static enum outcome run_command(struct session *s, const struct command *c)
{
	verb_fn *fn = verbs[c->cmd.verb];
	enum outcome out;

	if (refused_verb(s, c->cmd.verb))
		out = refuse(s, REPLY_REFUSED_VERB);
	else
		out = (fn ? fn : on_other)(s, c);
	if (out == DONE)
		count_junk(s, c->cmd.verb);
	return out;
}

static enum outcome run_line(
	struct session *s, enum line_res res, struct span line, struct span raw, size_t behind)
{
	struct command c = {.raw = raw, .behind = behind};

	if (res == LINE_BARE_LF)
		return refuse_bad(s, REPLY_BARE_LF);
	if (!smtp_line_clean(line))
		return refuse_bad(s, REPLY_BAD_OCTETS);
	if (!smtp_cmd_parse(line, &c.cmd))
		return refuse_bad(s, REPLY_NO_VERB);
	return run_command(s, &c);
}

/* ---- lines ---- */

/* AUTH may carry an initial response, so its line may be as long as those of the exchange. */
static size_t line_max(const struct session *s, struct span in)
{
	struct span first = s->line.len ? stash_span(&s->line) : in;
	uint8_t verb[5];
	size_t n = MIN_OF(first.n, sizeof(verb));

	memcpy(verb, first.p, n);
	if (n < sizeof(verb) && s->line.len) {
		size_t more = MIN_OF(in.n, sizeof(verb) - n);

		memcpy(verb + n, in.p, more);
		n += more;
	}
	return span_ieq(span_of(verb, n), SPAN_LIT("AUTH ")) ? SMTP_AUTH_BYTES_MAX
							     : s->lis->limits.command_line;
}

/* One line out of `in`, joined with what is stashed of it. Nothing is consumed yet: *used says how
 * many octets of `in` belong to it, and finish_line() is due once it was dealt with. */
static enum line_res next_line(struct session *s, struct span in, size_t max, struct span *line,
	struct span *raw, size_t *used)
{
	size_t next = 0;
	enum line_res res;

	if (s->line.len == 0) {
		res = smtp_line(in, &s->line_seen, max, line, &next);
		*used = res == LINE_MORE ? 0 : next;
		*raw = span_of(in.p, next);
	} else {
		const uint8_t *lf = memchr(in.p, '\n', in.n);
		size_t take = lf ? (size_t)(lf - in.p) + 1 : in.n;

		/* A complete line may be waiting here since the last time. */
		res = smtp_line(stash_span(&s->line), &s->line_seen, max, line, &next);
		*used = 0;
		if (res == LINE_MORE) {
			/* Not past the limit: the end of a line that is too long must stay in `in`.
			 */
			take = MIN_OF(take, max > s->line.len ? max - s->line.len : 0);
			if (!stash_add(&s->line, &s->core->stashes, span_of(in.p, take))) {
				sess_end(s, END_MEMORY);
				return LINE_MORE;
			}
			*used = take;
			res = smtp_line(stash_span(&s->line), &s->line_seen, max, line, &next);
		}
		*raw = span_of(stash_span(&s->line).p, next);
	}
	return res;
}

/* Input that holds no line end: the unfinished line is kept, one octet or a thousand at a time. */
static size_t keep_unfinished(struct session *s, struct span in, size_t used)
{
	if (s->end != END_NONE || used == in.n)
		return in.n;
	if (!stash_add(&s->line, &s->core->stashes, span_drop(in, used)))
		sess_end(s, END_MEMORY);
	return in.n;
}

static size_t discard_line(struct session *s, struct span in)
{
	const uint8_t *lf = memchr(in.p, '\n', in.n);

	if (!lf)
		return in.n;
	s->discard_line = false;
	sess_client_turn(s); /* for the next command */
	return (size_t)(lf - in.p) + 1;
}

static size_t too_long(struct session *s, struct span in)
{
	stash_wipe(&s->line, &s->core->stashes); /* AUTH may stand there */
	s->line_seen = 0;
	s->discard_line = true;
	STAT_INC(s->core->stats, commands);
	refuse_bad(s, REPLY_TOO_LONG);
	return discard_line(s, in);
}

/* What was received behind the line: `in` is new input, or the rest of the oldest waiting cell, or
 * empty when the line itself has waited. */
static size_t octets_behind(const struct session *s, struct span in, size_t used)
{
	size_t waiting = s->inq.bytes;

	if (in.n > 0 && waiting > 0)
		waiting -= inq_front(&s->inq).n;
	return in.n - used + waiting;
}

static void finish_line(struct session *s)
{
	if (s->line.len)
		stash_wipe(&s->line, &s->core->stashes); /* it may have held a secret */
	s->line_seen = 0;
	s->line_waits = false;
	s->asked = 0;
	/* A question about a line that was decided without its answer is void. */
	if (hook_waits(&s->seat))
		hook_forget_call(&s->core->hooks, &s->seat);
	s->commands++;
	STAT_INC(s->core->stats, commands);
	sess_client_turn(s);
}

size_t sess_take_commands(struct session *s, struct span in)
{
	struct span line, raw;
	size_t used;
	enum line_res res;

	if (s->discard_line)
		return discard_line(s, in);
	res = next_line(s, in, line_max(s, in), &line, &raw, &used);
	if (res == LINE_MORE)
		return keep_unfinished(s, in, used);
	if (res == LINE_LONG)
		return used + too_long(s, span_drop(in, used));
	if (run_line(s, res, line, raw, octets_behind(s, in, used)) == LATER) {
		/* Octets that went into the stash are used; the rest, and the line, wait. */
		s->line_waits = s->line.len > 0;
		return s->line_waits ? used : 0;
	}
	finish_line(s);
	return used;
}

/* ---- AUTH exchange: lines that are nobody's business ---- */

static void pass_auth_line(struct session *s, struct span raw)
{
	s->phase = PHASE_COMMAND;
	if (!s->link) {
		/* Lost meanwhile: the exchange is answered all the same, its octets go nowhere. */
		queue_local(s, &sess_replies[REPLY_LOST]);
		return;
	}
	stream_put(&s->link->st, raw);
	queue_upstream(s, SLOT_AUTH, true, NULL);
}

/* Not a line that may be passed: the exchange is cancelled upstream (RFC 4954 4). */
static void refuse_auth_line(struct session *s, enum reply_id id)
{
	s->phase = PHASE_COMMAND;
	refuse_bad(s, id);
	if (!s->link)
		return;
	stream_put(&s->link->st, SPAN_LIT("*\r\n"));
	queue_upstream(s, SLOT_DISCARD, true, NULL);
}

size_t sess_take_auth_line(struct session *s, struct span in)
{
	struct span line, raw;
	size_t used;
	enum line_res res = next_line(s, in, SMTP_AUTH_BYTES_MAX, &line, &raw, &used);

	if (res == LINE_MORE)
		return keep_unfinished(s, in, used);
	if (res == LINE_OK && smtp_line_clean(line)) {
		pass_auth_line(s, raw);
	} else if (res == LINE_OK) {
		refuse_auth_line(s, REPLY_BAD_OCTETS);
	} else {
		s->discard_line = res == LINE_LONG;
		refuse_auth_line(s, res == LINE_LONG ? REPLY_AUTH_TOO_LONG : REPLY_BARE_LF);
	}
	stash_wipe(&s->line, &s->core->stashes);
	s->line_seen = 0;
	sess_client_turn(s);
	return used;
}
