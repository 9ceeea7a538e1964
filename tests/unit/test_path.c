/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Paths and parameters of MAIL and RCPT (engine/smtp/cmd.h): legal, odd and hostile.
 */
#include <criterion/criterion.h>

#include "engine/smtp/cmd.h"

struct row {
	const char *args;
	enum path_res res;
	const char *local, *domain, *params;
};

static const struct row mail_rows[] = {
	/* legal */
	{"FROM:<a@b>", PATH_OK, "a", "b", ""},
	{"from:<a.b+c=d@mx.example.org>", PATH_OK, "a.b+c=d", "mx.example.org", ""},
	{"FROM:<a@b> SIZE=10", PATH_OK, "a", "b", "SIZE=10"},
	{"FROM:<a@b> SIZE=10 BODY=8BITMIME SMTPUTF8", PATH_OK, "a", "b",
		"SIZE=10 BODY=8BITMIME SMTPUTF8"},
	{"FROM:<a@[192.0.2.1]>", PATH_OK, "a", "[192.0.2.1]", ""},
	{"FROM:<a@[IPv6:2001:db8::1]>", PATH_OK, "a", "[IPv6:2001:db8::1]", ""},
	{"FROM:<\"a b\"@c>", PATH_OK, "\"a b\"", "c", ""},
	{"FROM:<\"a\\\"b>\"@c> SIZE=1", PATH_OK, "\"a\\\"b>\"", "c", "SIZE=1"},
	{"FROM:<\"a@b\"@c>", PATH_OK, "\"a@b\"", "c", ""},
	{"FROM:<\"a\\\\\"@c>", PATH_OK, "\"a\\\\\"", "c", ""},
	{"FROM:<\"\"@c>", PATH_OK, "\"\"", "c", ""},
	{"FROM:<@x,@y.z:a@b>", PATH_OK, "a", "b", ""},
	{"FROM:<@[192.0.2.1]:a@b>", PATH_OK, "a", "b", ""},
	{"FROM:<!#$%&'*+-/=?^_`{|}~@b>", PATH_OK, "!#$%&'*+-/=?^_`{|}~", "b", ""},
	/* odd, but real */
	{"FROM: <a@b>", PATH_OK, "a", "b", ""},
	{"FROM:\t <a@b>  \tSIZE=1 ", PATH_OK, "a", "b", "SIZE=1"},
	{"FROM:a@b", PATH_OK, "a", "b", ""},
	{"FROM:a@b SIZE=1", PATH_OK, "a", "b", "SIZE=1"},
	{"FROM: \"a b\"@c SIZE=1", PATH_OK, "\"a b\"", "c", "SIZE=1"},
	{"FROM:<root>", PATH_OK, "root", "", ""},
	{"FROM:root", PATH_OK, "root", "", ""},
	{"FROM:<a..b@c>", PATH_OK, "a..b", "c", ""},
	{"FROM:<.a.@c>", PATH_OK, ".a.", "c", ""},
	{"FROM:<a@b.>", PATH_OK, "a", "b.", ""},
	{"FROM:<a@b_c.d>", PATH_OK, "a", "b_c.d", ""},
	{"FROM:<\"a\".b.\"c\"@d>", PATH_OK, "\"a\".b.\"c\"", "d", ""},
	{"FROM:<SRS0=ab12=CD=example.org=user@fwd.example>", PATH_OK,
		"SRS0=ab12=CD=example.org=user", "fwd.example", ""},
	{"FROM:<bounces+user=example.com@x>", PATH_OK, "bounces+user=example.com", "x", ""},
	{"FROM:<user%example.org@relay>", PATH_OK, "user%example.org", "relay", ""},
	{"FROM:<host!user@relay>", PATH_OK, "host!user", "relay", ""},
	/* no path */
	{"", PATH_NO_KEYWORD, "", "", ""},
	{"FROM", PATH_NO_KEYWORD, "", "", ""},
	{"FROM <a@b>", PATH_NO_KEYWORD, "", "", ""},
	{"FROM :<a@b>", PATH_NO_KEYWORD, "", "", ""},
	{"TO:<a@b>", PATH_NO_KEYWORD, "", "", ""},
	{"<a@b>", PATH_NO_KEYWORD, "", "", ""},
	{" FROM:<a@b>", PATH_NO_KEYWORD, "", "", ""},
	{"FROM:", PATH_BAD, "", "", ""},
	{"FROM:   ", PATH_BAD, "", "", ""},
	{"FROM:<", PATH_BAD, "", "", ""},
	{"FROM:>", PATH_BAD, "", "", ""},
	{"FROM:<<a@b>>", PATH_BAD, "", "", ""},
	{"FROM:<a@b>>", PATH_BAD, "", "", ""},
	{"FROM:<a@b", PATH_BAD, "", "", ""},
	{"FROM:<a@b SIZE=1", PATH_BAD, "", "", ""},
	{"FROM:a@b>", PATH_BAD, "", "", ""},
	{"FROM:<a@b>SIZE=1", PATH_BAD, "", "", ""},
	{"FROM:<>SIZE=1", PATH_BAD, "", "", ""},
	{"FROM:<a@>", PATH_BAD, "", "", ""},
	{"FROM:<@>", PATH_BAD, "", "", ""},
	{"FROM:<@b>", PATH_BAD, "", "", ""},
	{"FROM:<@b:>", PATH_BAD, "", "", ""},
	{"FROM:<@b,:a@c>", PATH_BAD, "", "", ""},
	{"FROM:<@b,c:a@d>", PATH_BAD, "", "", ""},
	{"FROM:<@:a@c>", PATH_BAD, "", "", ""},
	{"FROM:<@,@b:a@c>", PATH_BAD, "", "", ""},
	{"FROM:<@b;a@c>", PATH_BAD, "", "", ""},
	{"FROM:@b:a@c", PATH_BAD, "", "", ""},
	{"FROM:<a@b@c>", PATH_BAD, "", "", ""},
	{"FROM:<a b@c>", PATH_BAD, "", "", ""},
	{"FROM:< a@b>", PATH_BAD, "", "", ""},
	{"FROM:<a@b >", PATH_BAD, "", "", ""},
	{"FROM:< >", PATH_BAD, "", "", ""},
	{"FROM:<a,b@c>", PATH_BAD, "", "", ""},
	{"FROM:<a@b,c@d>", PATH_BAD, "", "", ""},
	{"FROM:<a;b@c>", PATH_BAD, "", "", ""},
	{"FROM:<a(b)@c>", PATH_BAD, "", "", ""},
	{"FROM:<a\\@b@c>", PATH_BAD, "", "", ""},
	{"FROM:<a:b@c>", PATH_BAD, "", "", ""},
	{"FROM:<a\"b@c>", PATH_BAD, "", "", ""},
	{"FROM:<\"a@b>", PATH_BAD, "", "", ""},
	{"FROM:<\"a\"b@c>", PATH_BAD, "", "", ""},
	{"FROM:<a\"b\"@c>", PATH_BAD, "", "", ""},
	{"FROM:<\"a\\", PATH_BAD, "", "", ""},
	{"FROM:<\"a\tb\"@c>", PATH_BAD, "", "", ""},
	{"FROM:<\"\">", PATH_BAD, "", "", ""},
	{"FROM:<\"a\x01\"@b>", PATH_BAD, "", "", ""},
	{"FROM:<\"a\x7f\"@b>", PATH_BAD, "", "", ""},
	{"FROM:<\"a\\\x7f\"@b>", PATH_BAD, "", "", ""},
	{"FROM:<a@[192.0.2.1>", PATH_BAD, "", "", ""},
	{"FROM:<a@[]>", PATH_BAD, "", "", ""},
	{"FROM:<a@[x]y>", PATH_BAD, "", "", ""},
	{"FROM:<a@[x y]>", PATH_BAD, "", "", ""},
	{"FROM:Joe <a@b>", PATH_BAD_PARAM, "Joe", "", "<a@b>"},
	/* parameters */
	{"FROM:<a@b> X", PATH_OK, "a", "b", "X"},
	{"FROM:<a@b> 8-b=x", PATH_OK, "a", "b", "8-b=x"},
	{"FROM:<a@b> A=<> B=\"!x\" C=\xc3\xa9", PATH_OK, "a", "b", "A=<> B=\"!x\" C=\xc3\xa9"},
	{"FROM:<a@b>   A   B ", PATH_OK, "a", "b", "A   B"},
	{"FROM:<a@b> =x", PATH_BAD_PARAM, "a", "b", "=x"},
	{"FROM:<a@b> SIZE=", PATH_BAD_PARAM, "a", "b", "SIZE="},
	{"FROM:<a@b> A=b=c", PATH_OK, "a", "b", "A=b=c"},
	{"FROM:<a@b> -A=b", PATH_BAD_PARAM, "a", "b", "-A=b"},
	{"FROM:<a@b> A_B=c", PATH_BAD_PARAM, "a", "b", "A_B=c"},
	{"FROM:<a@b> A:b", PATH_BAD_PARAM, "a", "b", "A:b"},
	{"FROM:<a@b> A=\x7f", PATH_BAD_PARAM, "a", "b", "A=\x7f"},
	{"FROM:<a@b> A=\x01", PATH_BAD_PARAM, "a", "b", "A=\x01"},
	{"FROM:<a@b> \xc3\xa9=x", PATH_BAD_PARAM, "a", "b", "\xc3\xa9=x"},
	{"FROM:<a@b> , B", PATH_BAD_PARAM, "a", "b", ", B"},
};

static const struct row rcpt_rows[] = {
	{"TO:<a@b>", PATH_OK, "a", "b", ""},
	{"to: a@b NOTIFY=NEVER", PATH_OK, "a", "b", "NOTIFY=NEVER"},
	{"TO:<postmaster>", PATH_OK, "postmaster", "", ""},
	{"TO:<PostMaster> X", PATH_OK, "PostMaster", "", "X"},
	{"TO:<@x:a@b> ORCPT=rfc822;a@b", PATH_OK, "a", "b", "ORCPT=rfc822;a@b"},
	{"TO:<>", PATH_BAD, "", "", ""},
	{"TO:<> X", PATH_BAD, "", "", ""},
	{"FROM:<a@b>", PATH_NO_KEYWORD, "", "", ""},
	{"TO", PATH_NO_KEYWORD, "", "", ""},
	{"TO:<a@b> NOTIFY=", PATH_BAD_PARAM, "a", "b", "NOTIFY="},
};

static void check_row(const struct row *row, bool is_rcpt)
{
	struct smtp_path path;
	enum path_res res = smtp_path_parse(span_str(row->args), is_rcpt, &path);

	cr_expect(res == row->res, "%s: %d", row->args, res);
	if (res != row->res || (res != PATH_OK && res != PATH_BAD_PARAM))
		return;
	cr_expect(!path.null, "%s", row->args);
	cr_expect(span_eq(path.local, span_str(row->local)), "%s", row->args);
	cr_expect(span_eq(path.domain, span_str(row->domain)), "%s", row->args);
	cr_expect(span_eq(path.params, span_str(row->params)), "%s", row->args);
	cr_expect(path.mailbox.p == path.local.p, "%s", row->args);
	cr_expect(path.mailbox.n == path.local.n + (path.domain.n ? 1 + path.domain.n : 0), "%s",
		row->args);
	cr_expect(!path.utf8, "%s", row->args);
}

Test(path, mail)
{
	for (size_t i = 0; i < ARRAY_LEN(mail_rows); i++)
		check_row(&mail_rows[i], false);
}

Test(path, rcpt)
{
	for (size_t i = 0; i < ARRAY_LEN(rcpt_rows); i++)
		check_row(&rcpt_rows[i], true);
}

Test(path, null)
{
	static const char *const rows[] = {"FROM:<>", "FROM: <> ", "from:<> SIZE=0"};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct smtp_path path;

		cr_expect(smtp_path_parse(span_str(rows[i]), false, &path) == PATH_OK);
		cr_expect(path.null && path.mailbox.n == 0 && path.domain.n == 0, "%s", rows[i]);
		cr_expect(path.params.n == (i == 2 ? 6u : 0u));
	}
}

Test(path, utf8)
{
	struct smtp_path path;

	cr_expect(smtp_path_parse(SPAN_LIT("FROM:<\xc3\xa9@b>"), false, &path) == PATH_OK);
	cr_expect(path.utf8);
	cr_expect(smtp_path_parse(SPAN_LIT("TO:<a@\xe4\xbe\x8b.x>"), true, &path) == PATH_OK);
	cr_expect(path.utf8 && path.domain.n == 5);
	cr_expect(smtp_path_parse(SPAN_LIT("TO:<\"\xff\"@x>"), true, &path) == PATH_OK);
	cr_expect(path.utf8);
	cr_expect(smtp_path_parse(SPAN_LIT("FROM:<a@b> X=\xc3\xa9"), false, &path) == PATH_OK);
	cr_expect(!path.utf8, "only the mailbox counts");
}

/* A prefix of a legal path is never read as another path with the same end, and nothing is read
 * behind the span's end (each prefix has its own allocation: the sanitizer watches). */
Test(path, prefixes)
{
	static const char whole[] = "FROM:<@x:\"a\\ b\".c@[IPv6:::1]> SIZE=1";

	for (size_t n = 0; n < sizeof(whole); n++) {
		uint8_t *copy = malloc(n ? n : 1);
		struct smtp_path path;
		enum path_res res;

		memcpy(copy, whole, n);
		res = smtp_path_parse(span_of(copy, n), false, &path);
		if (n < 5)
			cr_expect(res == PATH_NO_KEYWORD, "%zu", n);
		else if (n < 29)
			cr_expect(res == PATH_BAD, "%zu: %d", n, res);
		else
			cr_expect(res == (n == 35 ? PATH_BAD_PARAM : PATH_OK), "%zu: %d", n, res);
		free(copy);
	}
}

/* ---- limits ---- */

static enum path_res with_lengths(size_t local, size_t domain, size_t params)
{
	static char text[8192];
	size_t n = (size_t)snprintf(text, sizeof(text), "FROM:<");
	struct smtp_path path;

	memset(text + n, 'l', local);
	n += local;
	text[n++] = '@';
	memset(text + n, 'd', domain);
	n += domain;
	text[n++] = '>';
	for (size_t i = 0; i < params; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, " P%zu", i);
	return smtp_path_parse(span_of(text, n), false, &path);
}

/* "@rrr...:a@b" of `n` octets. */
static enum path_res with_route(size_t n)
{
	static char text[2048];
	struct smtp_path path;

	memset(text, 'r', sizeof(text));
	memcpy(text, "TO:<@", 5);
	memcpy(text + 4 + n - 4, ":a@b>", 5);
	return smtp_path_parse(span_of(text, n + 5), true, &path);
}

Test(path, limits)
{
	cr_expect(with_lengths(64, 255, 0) == PATH_OK);
	cr_expect(with_lengths(65, 255, 0) == PATH_OK);
	cr_expect(with_lengths(64, 256, 0) == PATH_TOO_LONG);
	cr_expect(with_lengths(1013, 10, 0) == PATH_OK);
	cr_expect(with_lengths(1014, 10, 0) == PATH_TOO_LONG);
	cr_expect(with_lengths(3000, 300, 0) == PATH_TOO_LONG);
	cr_expect(with_route(SMTP_PATH_BYTES_MAX) == PATH_OK);
	cr_expect(with_route(SMTP_PATH_BYTES_MAX + 1) == PATH_TOO_LONG);
	cr_expect(with_lengths(1, 1, SMTP_PARAMS_MAX) == PATH_OK);
	cr_expect(with_lengths(1, 1, SMTP_PARAMS_MAX + 1) == PATH_BAD_PARAM);
}

/* ---- the iterator ---- */

Test(path, param_next)
{
	struct span rest = SPAN_LIT(" A  B=\tC=x=y\t=z "), all = rest;
	struct smtp_param p;

	cr_expect(smtp_param_next(&rest, &p) && span_eq(p.name, SPAN_LIT("A")) && !p.value.p);
	cr_expect(smtp_param_next(&rest, &p) && span_eq(p.name, SPAN_LIT("B")));
	cr_expect(p.value.p && p.value.n == 0);
	cr_expect(smtp_param_next(&rest, &p) && span_eq(p.name, SPAN_LIT("C")));
	cr_expect(span_eq(p.value, SPAN_LIT("x=y")));
	cr_expect(smtp_param_next(&rest, &p) && p.name.n == 0 && p.value.n == 1);
	cr_expect(!smtp_param_next(&rest, &p) && !smtp_param_next(&rest, &p));
	cr_expect(rest.p <= all.p + all.n);
	rest = SPAN_NONE;
	cr_expect(!smtp_param_next(&rest, &p));
}

/* ---- values ---- */

struct value_row {
	const char *params;
	const char *bad; /* NULL: all are good */
};

static const struct value_row mail_values[] = {
	{"", NULL},
	{"SIZE=0", NULL},
	{"size=18446744073709551615", NULL},
	{"SIZE=18446744073709551616", "SIZE=18446744073709551616"},
	{"SIZE=99999999999999999999", "SIZE=99999999999999999999"},
	{"SIZE=000000000000000000001", "SIZE=000000000000000000001"},
	{"SIZE=-1", "SIZE=-1"},
	{"SIZE=1k", "SIZE=1k"},
	{"SIZE", "SIZE"},
	{"BODY=7BIT", NULL},
	{"body=8bitMIME", NULL},
	{"BODY=BINARYMIME", NULL},
	{"BODY=8BIT", "BODY=8BIT"},
	{"BODY=7BITX", "BODY=7BITX"},
	{"BODY", "BODY"},
	{"SMTPUTF8", NULL},
	{"SMTPUTF8=1", "SMTPUTF8=1"},
	{"REQUIRETLS", NULL},
	{"REQUIRETLS=yes", "REQUIRETLS=yes"},
	{"RET=FULL", NULL},
	{"RET=hdrs", NULL},
	{"RET=ALL", "RET=ALL"},
	{"RET", "RET"},
	{"ENVID=QQ314159", NULL},
	{"ENVID=a+2Bb+3d", NULL},
	{"ENVID=a+2", "ENVID=a+2"},
	{"ENVID=a+", "ENVID=a+"},
	{"ENVID=a+GG", "ENVID=a+GG"},
	{"ENVID=a\xc3\xa9", "ENVID=a\xc3\xa9"},
	{"ENVID", "ENVID"},
	{"AUTH=<>", NULL},
	{"AUTH=e+3Dmc2@example.com", NULL},
	{"AUTH=<a@b>", NULL},
	{"AUTH=a+b@c", "AUTH=a+b@c"},
	{"AUTH", "AUTH"},
	{"BY=120;R", NULL},
	{"BY=-10;nt", NULL},
	{"BY=+999999999;NT", NULL},
	{"BY=0;N", NULL},
	{"BY=1000000000;R", "BY=1000000000;R"},
	{"BY=120", "BY=120"},
	{"BY=120;", "BY=120;"},
	{"BY=120;X", "BY=120;X"},
	{"BY=120;RX", "BY=120;RX"},
	{"BY=120;RTT", "BY=120;RTT"},
	{"BY=;R", "BY=;R"},
	{"BY=-;R", "BY=-;R"},
	{"BY=--1;R", "BY=--1;R"},
	{"BY", "BY"},
	{"HOLDFOR=86400", NULL},
	{"HOLDFOR=1000000000", "HOLDFOR=1000000000"},
	{"HOLDFOR=x", "HOLDFOR=x"},
	{"HOLDFOR", "HOLDFOR"},
	{"HOLDUNTIL=2030-12-31T23:59:60Z", NULL},
	{"HOLDUNTIL=2030-01-01t00:00:00.5+02:00", NULL},
	{"HOLDUNTIL=2030-01-01T00:00:00.123456-11:30", NULL},
	{"HOLDUNTIL=2030-01-01T00:00:00", "HOLDUNTIL=2030-01-01T00:00:00"},
	{"HOLDUNTIL=2030-13-01T00:00:00Z", "HOLDUNTIL=2030-13-01T00:00:00Z"},
	{"HOLDUNTIL=2030-00-01T00:00:00Z", "HOLDUNTIL=2030-00-01T00:00:00Z"},
	{"HOLDUNTIL=2030-01-32T00:00:00Z", "HOLDUNTIL=2030-01-32T00:00:00Z"},
	{"HOLDUNTIL=2030-01-01T24:00:00Z", "HOLDUNTIL=2030-01-01T24:00:00Z"},
	{"HOLDUNTIL=2030-01-01T00:60:00Z", "HOLDUNTIL=2030-01-01T00:60:00Z"},
	{"HOLDUNTIL=2030-01-01T00:00:00.Z", "HOLDUNTIL=2030-01-01T00:00:00.Z"},
	{"HOLDUNTIL=2030-01-01T00:00:00+0200", "HOLDUNTIL=2030-01-01T00:00:00+0200"},
	{"HOLDUNTIL=2030-01-01T00:00:00+02x00", "HOLDUNTIL=2030-01-01T00:00:00+02x00"},
	{"HOLDUNTIL=2030-01-01T00:00:00+02:00x", "HOLDUNTIL=2030-01-01T00:00:00+02:00x"},
	{"HOLDUNTIL=2030-01-01T00:00:00+24:00", "HOLDUNTIL=2030-01-01T00:00:00+24:00"},
	{"HOLDUNTIL=2030\r01-01T00:00:00Z", "HOLDUNTIL=2030\r01-01T00:00:00Z"},
	{"HOLDUNTIL=2030-01-01T00:00:00Zx", "HOLDUNTIL=2030-01-01T00:00:00Zx"},
	{"HOLDUNTIL=2030-01-01T00:00:61Z", "HOLDUNTIL=2030-01-01T00:00:61Z"},
	{"HOLDUNTIL=2030-01-01T00:00:00-02:60", "HOLDUNTIL=2030-01-01T00:00:00-02:60"},
	{"HOLDUNTIL=2030-01-01T00:00:00*02:00", "HOLDUNTIL=2030-01-01T00:00:00*02:00"},
	{"HOLDUNTIL=2030-01-01T00:00:00.5", "HOLDUNTIL=2030-01-01T00:00:00.5"},
	{"HOLDUNTIL=tomorrow", "HOLDUNTIL=tomorrow"},
	{"HOLDUNTIL", "HOLDUNTIL"},
	{"HOLDFOR=1 HOLDUNTIL=2030-01-01T00:00:00Z", "HOLDUNTIL=2030-01-01T00:00:00Z"},
	{"HOLDUNTIL=2030-01-01T00:00:00Z HOLDFOR=1", "HOLDFOR=1"},
	{"MT-PRIORITY=0", NULL},
	{"MT-PRIORITY=9", NULL},
	{"MT-PRIORITY=-9", NULL},
	{"MT-PRIORITY=10", "MT-PRIORITY=10"},
	{"MT-PRIORITY=-0", "MT-PRIORITY=-0"},
	{"MT-PRIORITY=+1", "MT-PRIORITY=+1"},
	{"MT-PRIORITY=-", "MT-PRIORITY=-"},
	{"MT-PRIORITY=-10", "MT-PRIORITY=-10"},
	{"MT-PRIORITY", "MT-PRIORITY"},
	{"X-UNKNOWN X=1 XVERP", NULL},
	{"SIZE=1 BODY=7BIT size=2", "size=2"},
	{"SIZE=1 SIZE=1", "SIZE=1"},
	{"X A=1 x=2", "x=2"},
	{"SMTPUTF8 RET=FULL SMTPUTF8", "SMTPUTF8"},
	{"NOTIFY=anything", NULL},
};

static const struct value_row rcpt_values[] = {
	{"", NULL},
	{"NOTIFY=NEVER", NULL},
	{"NOTIFY=SUCCESS,FAILURE,DELAY", NULL},
	{"notify=delay", NULL},
	{"NOTIFY=NEVER,DELAY", "NOTIFY=NEVER,DELAY"},
	{"NOTIFY=DELAY,", "NOTIFY=DELAY,"},
	{"NOTIFY=,DELAY", "NOTIFY=,DELAY"},
	{"NOTIFY=DELAYED", "NOTIFY=DELAYED"},
	{"NOTIFY", "NOTIFY"},
	{"ORCPT=rfc822;a@b", NULL},
	{"ORCPT=RFC822;a+2Bb@c", NULL},
	{"ORCPT=x400;/c=us/", NULL},
	{"ORCPT=utf-8;\xc3\xa9@b", NULL},
	{"ORCPT=utf-8;\\x{E9}@b", NULL},
	{"ORCPT=rfc822;\xc3\xa9@b", "ORCPT=rfc822;\xc3\xa9@b"},
	{"ORCPT=rfc822;a+b@c", "ORCPT=rfc822;a+b@c"},
	{"ORCPT=a@b", "ORCPT=a@b"},
	{"ORCPT=;a@b", "ORCPT=;a@b"},
	{"ORCPT=rfc822;", "ORCPT=rfc822;"},
	{"ORCPT", "ORCPT"},
	{"RRVS=2014-04-03T23:01:00Z", NULL},
	{"RRVS=2014-04-03T23:01:00Z;C", NULL},
	{"RRVS=2014-04-03T23:01:00Z;r", NULL},
	{"RRVS=2014-04-03T23:01:00Z;X", "RRVS=2014-04-03T23:01:00Z;X"},
	{"RRVS=2014-04-03T23:01:00Z;", "RRVS=2014-04-03T23:01:00Z;"},
	{"RRVS=x;C", "RRVS=x;C"},
	{"RRVS", "RRVS"},
	{"X-UNKNOWN=1 SIZE=x", NULL},
	{"NOTIFY=NEVER ORCPT=rfc822;a NOTIFY=NEVER", "NOTIFY=NEVER"},
};

static void check_value(const struct value_row *row, bool ok, struct span bad)
{
	cr_expect(ok == !row->bad, "%s", row->params);
	cr_expect(span_eq(bad, span_str(row->bad)), "%s", row->params);
}

Test(path, mail_values)
{
	for (size_t i = 0; i < ARRAY_LEN(mail_values); i++) {
		struct smtp_mail_params out;
		struct span bad;
		bool ok = smtp_mail_params(span_str(mail_values[i].params), &out, &bad);

		check_value(&mail_values[i], ok, bad);
	}
}

Test(path, rcpt_values)
{
	for (size_t i = 0; i < ARRAY_LEN(rcpt_values); i++) {
		struct span bad;
		bool ok = smtp_rcpt_params(span_str(rcpt_values[i].params), &bad);

		check_value(&rcpt_values[i], ok, bad);
	}
}

Test(path, mail_params_are_told)
{
	struct smtp_mail_params out;
	struct span bad;

	cr_assert(smtp_mail_params(SPAN_LIT("SIZE=123 BODY=8BITMIME SMTPUTF8 REQUIRETLS AUTH=<> "
					    "RET=HDRS ENVID=x BY=1;N HOLDFOR=5 MT-PRIORITY=-3"),
		&out, &bad));
	cr_expect(out.has_size && out.size == 123 && out.body == BODY_8BITMIME && out.smtputf8);
	cr_expect(out.requiretls && out.has_auth && out.has_ret && out.has_envid && out.has_by);
	cr_expect(out.has_hold && out.has_priority);
	cr_assert(smtp_mail_params(SPAN_LIT("X"), &out, &bad));
	cr_expect(!out.has_size && out.body == BODY_NONE && !out.smtputf8 && !out.requiretls);
	cr_expect(!out.has_auth && !out.has_ret && !out.has_envid && !out.has_by);
	cr_expect(!out.has_hold && !out.has_priority);
	cr_assert(smtp_mail_params(SPAN_LIT("BODY=7BIT"), &out, &bad));
	cr_expect(out.body == BODY_7BIT);
	cr_assert(smtp_mail_params(SPAN_LIT("BODY=BINARYMIME"), &out, &bad));
	cr_expect(out.body == BODY_BINARYMIME);
}

/* Lengths that have a limit, at it and above. */
Test(path, value_limits)
{
	char text[600];
	struct smtp_mail_params out;
	struct span bad;

	memset(text, 'x', sizeof(text));
	memcpy(text, "ENVID=", 6);
	cr_expect(smtp_mail_params(span_of(text, 106), &out, &bad));
	cr_expect(!smtp_mail_params(span_of(text, 107), &out, &bad));
	memcpy(text, "ORCPT=rfc822;", 13);
	cr_expect(smtp_rcpt_params(span_of(text, 506), &bad));
	cr_expect(!smtp_rcpt_params(span_of(text, 507), &bad));
}

Test(path, xtext)
{
	for (unsigned c = 0; c < 256; c++) {
		uint8_t octet = (uint8_t)c;
		bool want = c > 32 && c < 127 && c != '+';

		cr_expect(smtp_xtext_valid(span_of(&octet, 1)) == want, "%u", c);
	}
	cr_expect(smtp_xtext_valid(SPAN_NONE));
	cr_expect(smtp_xtext_valid(SPAN_LIT("+41+ff")));
	cr_expect(!smtp_xtext_valid(SPAN_LIT("+4")));
	cr_expect(!smtp_xtext_valid(SPAN_LIT("++41")));
	cr_expect(!smtp_xtext_valid(span_of("+41", 2)), "the rest is not ours");
}

/* Random octets from what matters to the parsers: nothing is read or returned outside the line. */
Test(path, random_lines)
{
	static const char pieces[] = "FROM:<>@\"\\.,:;[] \t=+-aB1\xc3";
	uint32_t state = 1;

	for (int round = 0; round < 200000; round++) {
		size_t n = 5 + (size_t)(round % 40);
		uint8_t *line = malloc(n);
		struct smtp_mail_params values;
		struct smtp_path path;
		struct span bad, all = span_of(line, n);

		memcpy(line, "FROM:", 5);
		for (size_t i = 5; i < n; i++) {
			state = state * 1664525u + 1013904223u;
			line[i] = (uint8_t)pieces[(state >> 16) % (sizeof(pieces) - 1)];
		}
		if (smtp_path_parse(all, false, &path) == PATH_OK) {
			cr_assert(path.null || path.mailbox.n > 0);
			cr_assert(
				path.null || (path.mailbox.p >= line &&
						     path.mailbox.p + path.mailbox.n <= line + n));
			cr_assert(path.params.p + path.params.n <= line + n);
			smtp_mail_params(path.params, &values, &bad);
		}
		free(line);
	}
}
