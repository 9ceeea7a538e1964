/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Rows on commands. `command`: what every command line goes through (its end is found, its octets
 * are judged, verb and arguments are told apart). `path` and `parameters`: what MAIL and RCPT go
 * through on top. `bdat`, `auth`: theirs.
 */
#include "bench/micro/micro.h"

#include "engine/smtp/auth.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/line.h"

/* A row works on one text. */
struct text {
	struct span in;
};

/* ---- command lines ---- */

static bool read_command(struct span in, struct smtp_cmd *c)
{
	size_t seen = 0, next = 0;
	struct span line;

	return smtp_line(in, &seen, SMTP_COMMAND_BYTES_MAX, &line, &next) == LINE_OK &&
	       next == in.n && smtp_line_clean(line) && smtp_cmd_parse(line, c);
}

static uint64_t command_rounds(void *arg, uint64_t rounds)
{
	struct text *t = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct smtp_cmd c = {0};

		t->in = micro_hide_span(t->in);
		sum += read_command(t->in, &c) + c.verb + c.args.n;
	}
	return sum;
}

static const struct {
	const char *name, *line;
	enum smtp_verb verb;
	size_t args;
} commands[] = {
	{"EHLO", "EHLO mail.sender.example\r\n", SMTP_EHLO, 19},
	{"MAIL", "MAIL FROM:<someone@sender.example>\r\n", SMTP_MAIL, 29},
	{"MAIL with parameters",
		"MAIL FROM:<someone@sender.example> SIZE=10240 BODY=8BITMIME RET=HDRS\r\n",
		SMTP_MAIL, 63},
	{"RCPT", "RCPT TO:<somebody@receiver.example>\r\n", SMTP_RCPT, 30},
	{"DATA", "DATA\r\n", SMTP_DATA, 0},
	{"BDAT", "BDAT 1048576 LAST\r\n", SMTP_BDAT, 12},
	{"RSET", "RSET\r\n", SMTP_RSET, 0},
	{"NOOP", "NOOP\r\n", SMTP_NOOP, 0},
	{"QUIT", "QUIT\r\n", SMTP_QUIT, 0},
	{"STARTTLS", "STARTTLS\r\n", SMTP_STARTTLS, 0},
	{"an unknown one", "XWHATEVER of some kind\r\n", SMTP_OTHER, 12},
};

static void command_rows(struct micro *m)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		struct text t = {span_str(commands[i].line)};
		struct smtp_cmd c;

		if (!micro_row(m, "command/%s", commands[i].name))
			continue;
		micro_check(m,
			read_command(t.in, &c) && c.verb == commands[i].verb &&
				c.args.n == commands[i].args,
			"verb and arguments are read");
		micro_measure(m, (struct micro_size){"command", 1, t.in.n}, command_rounds, &t);
	}
}

/* ---- paths ---- */

struct path_text {
	struct span args;
	bool rcpt;
};

static uint64_t path_rounds(void *arg, uint64_t rounds)
{
	struct path_text *t = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct smtp_path p;

		t->args = micro_hide_span(t->args);
		sum += smtp_path_parse(t->args, t->rcpt, &p) + p.mailbox.n + p.params.n;
	}
	return sum;
}

static const struct {
	const char *name, *args, *mailbox;
	bool rcpt;
	size_t params;
} paths[] = {
	{"sender", "FROM:<someone@sender.example>", "someone@sender.example", false, 0},
	{"null sender", "FROM:<>", "", false, 0},
	{"sender, 3 parameters", "FROM:<someone@sender.example> SIZE=10240 BODY=8BITMIME RET=HDRS",
		"someone@sender.example", false, 33},
	{"VERP sender",
		"FROM:<bounces+4711-0f3e-somebody=receiver.example@em7.mailings.sender.example>",
		"bounces+4711-0f3e-somebody=receiver.example@em7.mailings.sender.example", false,
		0},
	{"recipient", "TO:<somebody@receiver.example>", "somebody@receiver.example", true, 0},
	{"recipient, UTF-8", "TO:<gr\xc3\xbc\xc3\x9f@b\xc3\xbc\x63her.example>",
		"gr\xc3\xbc\xc3\x9f@b\xc3\xbc\x63her.example", true, 0},
	{"recipient, quoted", "TO:<\"some body\"@receiver.example>",
		"\"some body\"@receiver.example", true, 0},
	{"recipient, DSN",
		"TO:<somebody@receiver.example> NOTIFY=SUCCESS,FAILURE "
		"ORCPT=rfc822;somebody@receiver.example",
		"somebody@receiver.example", true, 61},
};

static void path_rows(struct micro *m)
{
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		struct path_text t = {span_str(paths[i].args), paths[i].rcpt};
		struct smtp_path p;

		if (!micro_row(m, "path/%s", paths[i].name))
			continue;
		micro_check(m,
			smtp_path_parse(t.args, t.rcpt, &p) == PATH_OK &&
				span_eq(p.mailbox, span_str(paths[i].mailbox)) &&
				p.params.n == paths[i].params,
			"the mailbox is read");
		micro_measure(m, (struct micro_size){"path", 1, t.args.n}, path_rounds, &t);
	}
}

/* ---- parameters ---- */

#define MAIL_PARAMS "SIZE=10240 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a4711"
#define RCPT_PARAMS "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;somebody@receiver.example"

static uint64_t mail_rounds(void *arg, uint64_t rounds)
{
	struct text *t = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct smtp_mail_params p;
		struct span bad;

		t->in = micro_hide_span(t->in);
		sum += smtp_mail_params(t->in, &p, &bad) + p.size + p.has_envid;
	}
	return sum;
}

static uint64_t rcpt_rounds(void *arg, uint64_t rounds)
{
	struct text *t = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct span bad;

		t->in = micro_hide_span(t->in);
		sum += smtp_rcpt_params(t->in, &bad);
	}
	return sum;
}

static void parameter_rows(struct micro *m)
{
	struct text t = {SPAN_LIT(MAIL_PARAMS)};

	if (micro_row(m, "parameters/MAIL, 5")) {
		micro_check(m, mail_rounds(&t, 1) == 1 + 10240 + 1, "SIZE and ENVID are read");
		micro_measure(m, (struct micro_size){"list", 1, t.in.n}, mail_rounds, &t);
	}
	t.in = SPAN_LIT(RCPT_PARAMS);
	if (micro_row(m, "parameters/RCPT, 2")) {
		micro_check(m, rcpt_rounds(&t, 1) == 1, "they are taken");
		t.in = SPAN_LIT(RCPT_PARAMS " NOTIFY=NEVER");
		micro_check(m, rcpt_rounds(&t, 1) == 0, "a twin is noticed");
		t.in = SPAN_LIT(RCPT_PARAMS);
		micro_measure(m, (struct micro_size){"list", 1, t.in.n}, rcpt_rounds, &t);
	}
}

/* ---- BDAT and AUTH ---- */

static uint64_t bdat_rounds(void *arg, uint64_t rounds)
{
	struct text *t = arg;
	uint64_t sum = 0, size = 0;
	bool last = false;

	while (rounds--) {
		t->in = micro_hide_span(t->in);
		sum += smtp_bdat_parse(t->in, &size, &last) + size + last;
	}
	return sum;
}

static uint64_t identity_rounds(void *arg, uint64_t rounds)
{
	uint8_t out[SMTP_AUTH_IDENTITY_MAX];
	struct text *t = arg;
	uint64_t sum = 0;

	while (rounds--) {
		t->in = micro_hide_span(t->in);
		sum += smtp_auth_identity(SPAN_LIT("PLAIN"), 0, t->in, out) + out[0];
	}
	return sum;
}

void rows_command(struct micro *m)
{
	struct text bdat = {SPAN_LIT("1048576 LAST")};
	struct text plain = {SPAN_LIT("AHNvbWVvbmVAc2VuZGVyLmV4YW1wbGUAYSBzZWNyZXQ=")};

	command_rows(m);
	path_rows(m);
	parameter_rows(m);
	if (micro_row(m, "bdat/size and LAST")) {
		micro_check(m, bdat_rounds(&bdat, 1) == 1048576 + 2, "both are read");
		micro_measure(m, (struct micro_size){"command", 1, 0}, bdat_rounds, &bdat);
	}
	if (micro_row(m, "auth/identity of PLAIN")) {
		micro_check(m, identity_rounds(&plain, 1) == 22 + 's', "it is read");
		micro_measure(m, (struct micro_size){"line", 1, 0}, identity_rounds, &plain);
	}
}
