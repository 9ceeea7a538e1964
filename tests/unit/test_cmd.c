/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands (engine/smtp/cmd.h): verbs, BDAT and AUTH arguments. Paths are in test_path.c.
 */
#include <criterion/criterion.h>

#include "engine/smtp/cmd.h"

static const struct {
	const char *line;
	bool ok;
	enum smtp_verb verb;
	const char *word, *args;
} commands[] = {
	{"EHLO mail.example.org", true, SMTP_EHLO, "EHLO", "mail.example.org"},
	{"ehlo [IPv6:::1]", true, SMTP_EHLO, "ehlo", "[IPv6:::1]"},
	{"HELO", true, SMTP_HELO, "HELO", ""},
	{"MAIL FROM:<a@b>", true, SMTP_MAIL, "MAIL", "FROM:<a@b>"},
	{"mAiL  FROM:<a@b> ", true, SMTP_MAIL, "mAiL", "FROM:<a@b>"},
	{"MAIL\tFROM:<a@b>\t \t", true, SMTP_MAIL, "MAIL", "FROM:<a@b>"},
	{"RCPT TO:<a b@c>", true, SMTP_RCPT, "RCPT", "TO:<a b@c>"},
	{"DATA", true, SMTP_DATA, "DATA", ""},
	{"DATA   ", true, SMTP_DATA, "DATA", ""},
	{"DATA x", true, SMTP_DATA, "DATA", "x"},
	{"BDAT 86 LAST", true, SMTP_BDAT, "BDAT", "86 LAST"},
	{"RSET", true, SMTP_RSET, "RSET", ""},
	{"NOOP  hello  world ", true, SMTP_NOOP, "NOOP", "hello  world"},
	{"QUIT", true, SMTP_QUIT, "QUIT", ""},
	{"VRFY x", true, SMTP_VRFY, "VRFY", "x"},
	{"EXPN x", true, SMTP_EXPN, "EXPN", "x"},
	{"HELP", true, SMTP_HELP, "HELP", ""},
	{"ETRN example.org", true, SMTP_ETRN, "ETRN", "example.org"},
	{"AUTH PLAIN AGEAYg==", true, SMTP_AUTH, "AUTH", "PLAIN AGEAYg=="},
	{"STARTTLS", true, SMTP_STARTTLS, "STARTTLS", ""},
	{"XCLIENT ADDR=1.2.3.4", true, SMTP_XCLIENT, "XCLIENT", "ADDR=1.2.3.4"},
	{"xforward NAME=x", true, SMTP_XFORWARD, "xforward", "NAME=x"},
	{"ATRN", true, SMTP_ATRN, "ATRN", ""},
	{"TURN", true, SMTP_TURN, "TURN", ""},
	{"BURL imap://x LAST", true, SMTP_BURL, "BURL", "imap://x LAST"},
	{"XEXCH50 10 2", true, SMTP_XEXCH50, "XEXCH50", "10 2"},
	{"LHLO x", true, SMTP_LHLO, "LHLO", "x"},
	{"XYZZY", true, SMTP_OTHER, "XYZZY", ""},
	{"MAILFROM:<a@b>", true, SMTP_OTHER, "MAILFROM:<a@b>", ""},
	{"MAIL: x", true, SMTP_OTHER, "MAIL:", "x"},
	{"DAT", true, SMTP_OTHER, "DAT", ""},
	{"DATAA", true, SMTP_OTHER, "DATAA", ""},
	{"other", true, SMTP_OTHER, "other", ""},
	{"X", true, SMTP_OTHER, "X", ""},
	{"", false, SMTP_OTHER, "", ""},
	{" ", false, SMTP_OTHER, "", ""},
	{" DATA", false, SMTP_OTHER, "", ""},
	{"\tDATA", false, SMTP_OTHER, "", ""},
	{"8DATA", false, SMTP_OTHER, "", ""},
	{"-", false, SMTP_OTHER, "", ""},
	{".", false, SMTP_OTHER, "", ""},
	{"\xc3\xa9hlo x", false, SMTP_OTHER, "", ""},
	{"<a@b>", false, SMTP_OTHER, "", ""},
};

Test(cmd, lines)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		struct smtp_cmd cmd;
		struct span line = span_str(commands[i].line);
		bool ok = smtp_cmd_parse(line, &cmd);

		cr_expect(ok == commands[i].ok, "%s", commands[i].line);
		cr_expect(cmd.verb == commands[i].verb, "%s", commands[i].line);
		cr_expect(span_eq(cmd.word, span_str(commands[i].word)), "%s", commands[i].line);
		cr_expect(span_eq(cmd.args, span_str(commands[i].args)), "%s", commands[i].line);
	}
}

Test(cmd, every_verb_in_any_case)
{
	for (unsigned v = 0; v < SMTP_OTHER; v++) {
		const char *name = smtp_verb_name((enum smtp_verb)v);
		char lower[16] = "", line[32];
		struct smtp_cmd cmd;

		for (size_t i = 0; name[i]; i++)
			lower[i] = (char)ascii_lower((uint8_t)name[i]);
		snprintf(line, sizeof(line), "%s x", lower);
		cr_expect(smtp_cmd_parse(span_str(name), &cmd) && cmd.verb == v, "%s", name);
		cr_expect(smtp_cmd_parse(span_str(line), &cmd) && cmd.verb == v, "%s", line);
	}
	cr_expect_str_eq(smtp_verb_name(SMTP_OTHER), "other");
}

Test(cmd, flags)
{
	cr_expect(smtp_verb_flags(SMTP_EHLO) == (SMTP_F_SYNC | SMTP_F_ENDS | SMTP_F_EARLY));
	cr_expect(smtp_verb_flags(SMTP_MAIL) == SMTP_F_MAILS);
	cr_expect(smtp_verb_flags(SMTP_DATA) == (SMTP_F_SYNC | SMTP_F_MAILS));
	cr_expect(smtp_verb_flags(SMTP_BDAT) == SMTP_F_MAILS);
	cr_expect(smtp_verb_flags(SMTP_RSET) == (SMTP_F_ENDS | SMTP_F_JUNK | SMTP_F_EARLY));
	cr_expect(smtp_verb_flags(SMTP_OTHER) == (SMTP_F_SYNC | SMTP_F_JUNK));
	for (unsigned v = SMTP_XCLIENT; v <= SMTP_LHLO; v++)
		cr_expect(smtp_verb_flags((enum smtp_verb)v) & SMTP_F_REFUSE, "%s",
			smtp_verb_name((enum smtp_verb)v));
}

/* RFC 3207 4, and what changes nothing. */
Test(cmd, early_ones)
{
	const char *names[] = {"HELO", "EHLO", "RSET", "NOOP", "QUIT", "STARTTLS"};
	unsigned n = 0;

	for (unsigned v = 0; v < SMTP_VERB_COUNT; v++)
		n += (smtp_verb_flags((enum smtp_verb)v) & SMTP_F_EARLY) != 0;
	cr_expect(n == ARRAY_LEN(names), "%u", n);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct smtp_cmd cmd;

		cr_assert(smtp_cmd_parse(span_str(names[i]), &cmd));
		cr_expect(smtp_verb_flags(cmd.verb) & SMTP_F_EARLY, "%s", names[i]);
	}
}

static const struct {
	const char *args;
	bool ok;
	uint64_t size;
	bool last;
} chunks[] = {
	{"0", true, 0, false},
	{"0 LAST", true, 0, true},
	{"86", true, 86, false},
	{"86 LAST", true, 86, true},
	{"86 last", true, 86, true},
	{"86  LaSt ", true, 86, true},
	{" 86\tLAST", true, 86, true},
	{"0086", true, 86, false},
	{"2147483647 LAST", true, 2147483647, true},
	{"2147483648 LAST", false, 0, false},
	{"4294967296", false, 0, false}, /* 0 in 32 bits */
	{"4294967382", false, 0, false}, /* 86 in 32 bits */
	{"18446744073709551615", false, 0, false},
	{"18446744073709551702", false, 0, false}, /* 86 in 64 bits */
	{"99999999999999999999", false, 0, false},
	{"00000000000000000086", true, 86, false},
	{"000000000000000000086", false, 0, false},
	{"", false, 0, false},
	{" ", false, 0, false},
	{"LAST", false, 0, false},
	{"LAST 86", false, 0, false},
	{"-1", false, 0, false},
	{"+86", false, 0, false},
	{"0x56", false, 0, false},
	{"86a", false, 0, false},
	{"8 6", false, 0, false},
	{"86LAST", false, 0, false},
	{"86 LAS", false, 0, false},
	{"86 LASTX", false, 0, false},
	{"86 LAST LAST", false, 0, false},
	{"86 LAST x", false, 0, false},
	{"86,LAST", false, 0, false},
	{"8\xb2", false, 0, false},
};

Test(cmd, bdat)
{
	for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
		uint64_t size = 1;
		bool last;
		bool ok = smtp_bdat_parse(span_str(chunks[i].args), &size, &last);

		cr_expect(ok == chunks[i].ok, "%s", chunks[i].args);
		if (ok)
			cr_expect(size == chunks[i].size && last == chunks[i].last, "%s",
				chunks[i].args);
	}
}

static const struct {
	const char *args;
	bool ok;
	const char *mechanism;
	bool initial;
} exchanges[] = {
	{"PLAIN", true, "PLAIN", false},
	{"PLAIN AGEAYg==", true, "PLAIN", true},
	{"PLAIN =", true, "PLAIN", true},
	{"login", true, "login", false},
	{" LOGIN  dXNlcg==  ", true, "LOGIN", true},
	{"CRAM-MD5", true, "CRAM-MD5", false},
	{"SCRAM-SHA-256-PLUS", true, "SCRAM-SHA-256-PLUS", false},
	{"X_Y-9", true, "X_Y-9", false},
	{"ABCDEFGHIJKLMNOPQRST", true, "ABCDEFGHIJKLMNOPQRST", false},
	{"ABCDEFGHIJKLMNOPQRSTU", false, "", false},
	{"", false, "", false},
	{"  ", false, "", false},
	{"PLAIN a b", false, "", false},
	{"PL=AIN", false, "", false},
	{"PLAIN, x", false, "", false},
	{"\"PLAIN\"", false, "", false},
	{"PL\xc4IN", false, "", false},
};

Test(cmd, auth)
{
	for (size_t i = 0; i < ARRAY_LEN(exchanges); i++) {
		struct span args = span_str(exchanges[i].args), mechanism;
		bool initial;
		bool ok = smtp_auth_parse(args, &mechanism, &initial);

		cr_expect(ok == exchanges[i].ok, "%s", exchanges[i].args);
		if (!ok)
			continue;
		cr_expect(span_eq(mechanism, span_str(exchanges[i].mechanism)), "%s",
			exchanges[i].args);
		cr_expect(initial == exchanges[i].initial, "%s", exchanges[i].args);
		cr_expect(mechanism.p >= args.p && mechanism.p + mechanism.n <= args.p + args.n);
	}
}
