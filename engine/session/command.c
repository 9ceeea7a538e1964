/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Client -> upstream: command lines, one handler per verb. A handler either passes the line on as
 * it was written and queues a slot for the upstream's reply, or queues our own reply in its place,
 * or says LATER: the line stays where it is and is read again when something has changed.
 *
 * What is refused here never reaches the upstream, and what follows is judged by what the upstream
 * was told, not by what the client asked for: a RCPT behind a refused MAIL meets 503 here.
 */
#include "engine/session/command.h"

#include "engine/smtp/auth.h"
#include "engine/smtp/octets.h"

enum outcome cmd_refuse_with(struct session *s, const struct local_reply *r)
{
	queue_local(s, r);
	return DONE;
}

enum outcome cmd_refuse(struct session *s, enum reply_id id)
{
	return cmd_refuse_with(s, &sess_replies[id]);
}

enum outcome cmd_refuse_bad(struct session *s, enum reply_id id)
{
	STAT_INC(s->core->stats, commands_bad);
	return cmd_refuse(s, id);
}

/* The link is there. */
void cmd_pass_line(
	struct session *s, struct span line, enum slot_kind kind, bool sync, struct txn *t)
{
	stream_put(&s->link->st, line);
	queue_upstream(s, kind, sync, t);
}

void cmd_pass_now(
	struct session *s, const struct command *c, enum slot_kind kind, bool sync, struct txn *t)
{
	cmd_pass_line(s, c->raw, kind, sync, t);
}

enum outcome cmd_pass(struct session *s, const struct command *c, enum slot_kind kind, bool sync)
{
	if (!sess_need_link(s))
		return LATER;
	cmd_pass_now(s, c, kind, sync, NULL);
	return DONE;
}

/* False: the line stays where it is. *no: the refusal, or NULL; what else they want is kept with
 * the line. */
bool cmd_ask(struct session *s, struct hook_event ev, const struct local_reply **no)
{
	struct hook_word word;

	*no = NULL;
	/* A line that waited (for a link, for another verdict) is not asked about twice. */
	if (s->asked & 1u << ev.point)
		return true;
	switch (sess_ask(s, &ev, &word)) {
	case HOOK_LATER:
		return false;
	case HOOK_NO:
		*no = word.reply;
		break;
	case HOOK_DISCARD:
		s->discard = word.reply;
		break;
	case HOOK_PASS:
		if (!hook_edits_join(&s->edits, hook_take_edits(&s->seat)))
			*no = &sess_replies[REPLY_CHANGED_MUCH];
		break;
	case HOOK_FEED:
		ASSERT(false); /* the end of a message that is kept: hold.c asks about that */
	}
	s->asked |= (uint16_t)(1u << ev.point);
	return true;
}

static void forget_wishes(struct session *s)
{
	hook_edits_free(s->edits);
	s->edits = NULL;
	s->discard = NULL;
}

/* What they want of the transaction as a whole. NULL: it is noted; else why not. */
const struct local_reply *cmd_note_wishes(struct session *s, struct txn *t)
{
	if (s->discard)
		t->discard = s->discard;
	if (!change_headers(s, t))
		return &sess_replies[REPLY_CHANGED_MUCH];
	forget_wishes(s);
	return NULL;
}

void cmd_tell(struct session *s, enum hook_point point)
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
	const struct hook_event ev = {.point = HOOK_EHLO,
		.helo = span_take_word(&args),
		.ehlo = c->cmd.verb == SMTP_EHLO};

	if (!cmd_ask(s, ev, &no))
		return LATER;
	if (no) {
		if (!s->hello_ok)
			remember_hello(s, c); /* for the record */
		queue_local(s, no);
		return DONE;
	}
	if (s->hello_denied) {
		remember_hello(s, c); /* for the record */
		secure_deny_hello(s);
		return DONE;
	}
	if (!sess_need_link(s)) {
		secure_link_for(s, c->raw);
		return LATER;
	}
	cmd_pass_now(s, c, SLOT_HELLO, true, NULL);
	remember_hello(s, c);
	return DONE;
}

/* What the client's next response tells of who it is. */
static void note_name(struct session *s, struct span mech, struct span response)
{
	uint8_t name[SMTP_AUTH_IDENTITY_MAX];
	size_t n = smtp_auth_identity(mech, s->auth_turn, response, name);

	if (n == 0)
		return;
	stash_clear(&s->auth_asked, &s->core->stashes);
	/* Without room nobody is told; that is no reason to refuse anything. */
	(void)!stash_add(&s->auth_asked, &s->core->stashes, span_of(name, n));
}

/* Who the AUTH command itself says it is. */
static struct span auth_name(struct session *s, struct span mech, struct span args, bool initial)
{
	stash_clear(&s->auth_asked, &s->core->stashes);
	s->auth_turn = 0;
	if (s->lis->hook_count == 0 || !initial)
		return SPAN_NONE;
	(void)span_take_word(&args);
	note_name(s, mech, span_take_word(&args));
	return stash_span(&s->auth_asked);
}

static enum outcome on_auth(struct session *s, const struct command *c)
{
	struct span mech = SPAN_NONE;
	bool initial = false;
	const struct local_reply *no;

	if (!smtp_auth_parse(c->cmd.args, &mech, &initial))
		return cmd_refuse_bad(s, REPLY_BAD_PARAM);
	/* Also of a line that has waited: for a link, which may be in clear. */
	no = secure_auth_objection(s);
	if (no)
		return cmd_refuse_with(s, no);
	if (!cmd_ask(s,
		    (struct hook_event){.point = HOOK_AUTH,
			    .mechanism = mech,
			    .identity = auth_name(s, mech, c->cmd.args, initial)},
		    &no))
		return LATER;
	if (no) {
		queue_local(s, no);
		return DONE;
	}
	if (!sess_need_link(s))
		return LATER;
	cmd_pass_now(s, c, SLOT_AUTH, true, NULL);
	STAT_INC(s->core->stats, auth_exchanges);
	size_t n = MIN_OF(mech.n, sizeof(s->auth_mech) - 1);
	memcpy(s->auth_mech, mech.p, n);
	s->auth_mech[n] = '\0';
	s->auth_code = 0;
	s->auth_turn = initial;
	return DONE;
}

static enum outcome on_starttls(struct session *s, const struct command *c)
{
	if (s->lis->starttls == STARTTLS_NONE)
		return cmd_refuse(s, REPLY_REFUSED_VERB);
	/* Nothing may stand behind it (RFC 3207 4): it would cross into what TLS protects. */
	if (c->behind > 0 && !s->cli_tls) {
		STAT_INC(s->core->stats, starttls_injection);
		queue_local(s, &sess_replies[REPLY_BEHIND_STARTTLS]);
		s->end_when_idle = END_INJECTION;
		return DONE;
	}
	if (s->lis->starttls != STARTTLS_PASSTHROUGH)
		return secure_on_starttls(s, c);
	if (secure_hello_due(s))
		return cmd_refuse(s, REPLY_NEED_HELLO);
	return cmd_pass(s, c, SLOT_STARTTLS, true);
}

static enum outcome on_quit(struct session *s, const struct command *c)
{
	/* The one command that needs no TLS (RFC 3207 4). */
	if (link_up(s->link)) {
		cmd_pass_now(s, c, SLOT_QUIT, true, NULL);
		return DONE;
	}
	queue_local(s, &sess_replies[REPLY_BYE]);
	struct slot *slot = queue_tail(s);
	slot->kind = SLOT_QUIT;
	slot->sync = true;
	return DONE;
}

static enum outcome on_xclient(struct session *s, const struct command *c)
{
	return cmd_pass(s, c, SLOT_XCLIENT, true);
}

static enum outcome on_stateful(struct session *s, const struct command *c)
{
	return cmd_pass(s, c, SLOT_STATEFUL, (smtp_verb_flags(c->cmd.verb) & SMTP_F_SYNC) != 0);
}

/* Without anybody to pass it to. */
static enum outcome on_noop(struct session *s, const struct command *c)
{
	if (secure_hello_due(s))
		return cmd_refuse(s, REPLY_DONE);
	return cmd_pass(s, c, SLOT_COMMAND, false);
}

static enum outcome on_other(struct session *s, const struct command *c)
{
	return cmd_pass(s, c, SLOT_COMMAND, (smtp_verb_flags(c->cmd.verb) & SMTP_F_SYNC) != 0);
}

/* ---- dispatch ---- */

static verb_fn *const verbs[SMTP_VERB_COUNT] = {
	[SMTP_HELO] = on_hello,
	[SMTP_EHLO] = on_hello,
	[SMTP_MAIL] = mail_on_mail,
	[SMTP_RCPT] = mail_on_rcpt,
	[SMTP_DATA] = mail_on_data,
	[SMTP_BDAT] = mail_on_bdat,
	[SMTP_RSET] = mail_on_rset,
	[SMTP_NOOP] = on_noop,
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
	/* The octets behind a BDAT have to be taken, too: it asks for itself. */
	bool asks = c->cmd.verb == SMTP_BDAT;
	const struct local_reply *no = asks ? NULL : secure_objection(s, c->cmd.verb);
	enum outcome out;

	if (no)
		out = cmd_refuse_with(s, no);
	else if (refused_verb(s, c->cmd.verb))
		out = cmd_refuse(s, REPLY_REFUSED_VERB);
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
		return cmd_refuse_bad(s, REPLY_BARE_LF);
	if (!smtp_line_clean(line))
		return cmd_refuse_bad(s, REPLY_BAD_OCTETS);
	if (!smtp_cmd_parse(line, &c.cmd))
		return cmd_refuse_bad(s, REPLY_NO_VERB);
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
	cmd_refuse_bad(s, REPLY_TOO_LONG);
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
	/* A question about a line that was decided without its answer is void; that about a message
	 * whose end was this line is not about the line. */
	if (hook_waits(&s->seat) && s->phase != PHASE_HELD && !s->end_held)
		hook_forget(&s->core->hooks, &s->seat);
	forget_wishes(s);
	s->mail_id = 0;
	s->commands++;
	STAT_INC(s->core->stats, commands);
	sess_client_turn(s);
}

/* A line that said LATER. Where nothing stands behind it the small cell of the stash does, instead
 * of one of the queue of waiting input, which is eight times as large. */
static size_t put_off(struct session *s, struct span raw, size_t used, size_t behind)
{
	if (s->end != END_NONE)
		return 0; /* and its line is gone */
	if (s->line.len == 0 && (behind > 0 || raw.n > STASH_SMALL_BYTES ||
					!stash_add(&s->line, &s->core->stashes, raw)))
		return 0;
	/* Octets that went into the stash are used; the rest, and the line, wait. */
	s->line_waits = true;
	return used;
}

size_t sess_take_commands(struct session *s, struct span in)
{
	struct span line, raw;
	size_t used, behind;
	enum line_res res;

	if (s->discard_line)
		return discard_line(s, in);
	res = next_line(s, in, line_max(s, in), &line, &raw, &used);
	if (res == LINE_MORE)
		return keep_unfinished(s, in, used);
	if (res == LINE_LONG)
		return used + too_long(s, span_drop(in, used));
	behind = octets_behind(s, in, used);
	if (run_line(s, res, line, raw, behind) == LATER)
		return put_off(s, raw, used, behind);
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
	if (s->lis->hook_count > 0)
		note_name(s, span_str(s->auth_mech), span_trim(span_of(raw.p, raw.n - 2)));
	s->auth_turn = (uint8_t)MIN_OF(s->auth_turn + 1, UINT8_MAX);
	stream_put(&s->link->st, raw);
	queue_upstream(s, SLOT_AUTH, true, NULL);
}

/* Not a line that may be passed: the exchange is cancelled upstream (RFC 4954 4). */
static void refuse_auth_line(struct session *s, enum reply_id id)
{
	s->phase = PHASE_COMMAND;
	cmd_refuse_bad(s, id);
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
