/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A handler per verb: what is wrong with the command, else what the rules say, else the usual
 * reply. Each returns false when the command was not used up: a delay holds it, or the session is
 * over. RFC 5321, 1870, 3030, 3461, 4954 (any credentials are good), 6152, 6531.
 */
#include "bench/sink/sink_int.h"

static bool cmd_helo(struct sess *s, const struct smtp_cmd *c)
{
	bool ehlo = c->verb == SMTP_EHLO;
	struct sink *k = s->sink;

	if (c->args.n == 0) {
		REFUSE(s, "501 5.5.4 EHLO and HELO take a name");
		return true;
	}
	const char *usual = !ehlo ? k->helo : s->secure ? k->ehlo_secure : k->ehlo;
	enum said said = rule_answer(s, AT_EHLO, span_str(usual));
	if (said == SAID_WAIT)
		return false;
	message_reset(s);
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
		enum said said = rule_answer(s, AT_MAIL, SPAN_LIT("250 2.1.0 sender fine\r\n"));

		if (said == SAID_WAIT)
			return false;
		if (said == SAID_NO)
			return true;
		message_reset(s);
		s->mail = true;
		s->binary = params.body == BODY_BINARYMIME;
		if (!message_open(s) || !keep_path(s->keep, "MAIL", path.mailbox, path.params))
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
		enum said said = rule_answer(s, AT_RCPT, SPAN_LIT("250 2.1.5 recipient fine\r\n"));

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
		enum said said =
			rule_answer(s, AT_DATA, SPAN_LIT("354 end with <CRLF>.<CRLF>\r\n"));

		if (said == SAID_WAIT)
			return false;
		if (said == SAID_NO) {
			message_reset(s);
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
	enum said said = rule_answer(s, AT_RSET, SPAN_LIT("250 2.0.0 reset\r\n"));

	if (said == SAID_WAIT)
		return false;
	message_reset(s);
	return true;
}

/* Answered when it is known that nothing lies behind it: secure_answer(). */
static bool cmd_starttls(struct sess *s, const struct smtp_cmd *c)
{
	if (!s->sink->starttls)
		REFUSE(s, "502 5.5.1 not offered");
	else if (s->secure)
		REFUSE(s, "503 5.5.1 in TLS already");
	else if (c->args.n)
		REFUSE(s, "501 5.5.4 STARTTLS takes no argument");
	else
		s->phase = PH_TLS;
	return true;
}

static bool cmd_noop(struct sess *s, const struct smtp_cmd *c)
{
	return rule_answer(s, AT_NOOP, SPAN_LIT("250 2.0.0 ok\r\n")) != SAID_WAIT;
}

static bool cmd_vrfy(struct sess *s, const struct smtp_cmd *c)
{
	return rule_answer(s, AT_VRFY, SPAN_LIT("252 2.5.2 send it and see\r\n")) != SAID_WAIT;
}

static bool cmd_help(struct sess *s, const struct smtp_cmd *c)
{
	SAY(s, "214 2.0.0 " PROGRAM ": everything sent here is thrown away or kept, as told");
	return true;
}

static bool cmd_quit(struct sess *s, const struct smtp_cmd *c)
{
	if (rule_answer(s, AT_QUIT, SPAN_LIT("221 2.0.0 bye\r\n")) == SAID_WAIT)
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
	enum decision d = rule_decide(s, AT_AUTH);
	if (d == DECIDE_WAIT || d == DECIDE_GONE)
		return false;
	if (d == DECIDE_REPLY) {
		s->authed = rule_say(s, AT_AUTH);
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
void command_auth_line(struct sess *s, struct span line)
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
	[SMTP_STARTTLS] = cmd_starttls,
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

bool command(struct sess *s, struct span line)
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
