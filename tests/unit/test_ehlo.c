/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * EHLO lists (engine/smtp/ehlo.h): what real servers say, and what the client is shown of it.
 */
#include <criterion/criterion.h>

#include "engine/smtp/ehlo.h"

/* As announced by Postfix 3.7, Exim 4.96, Exchange Online, Gmail and Sendmail 8.17. */
#define POSTFIX                                                                                 \
	"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n" \
	"250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN LOGIN\r\n"                      \
	"250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n"
#define EXIM                                                                                  \
	"250-mx.example.org Hello client [192.0.2.1]\r\n250-SIZE 52428800\r\n250-LIMITS "     \
	"MAILMAX=1000 RCPTMAX=50000\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-PIPECONNECT\r\n" \
	"250-CHUNKING\r\n250-STARTTLS\r\n250-PRDR\r\n250 HELP\r\n"
#define EXCHANGE                                                                              \
	"250-AM0PR01.mail.protection.outlook.com Hello [192.0.2.1]\r\n250-SIZE 157286400\r\n" \
	"250-PIPELINING\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-STARTTLS\r\n"            \
	"250-X-ANONYMOUSTLS\r\n250-AUTH NTLM\r\n250-X-EXPS GSSAPI NTLM\r\n250-8BITMIME\r\n"   \
	"250-BINARYMIME\r\n250-CHUNKING\r\n250-XEXCH50\r\n250-XRDST\r\n250 SMTPUTF8\r\n"
#define GMAIL                                                                                      \
	"250-mx.google.com at your service, [192.0.2.1]\r\n250-SIZE 157286400\r\n250-8BITMIME\r\n" \
	"250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-CHUNKING\r\n"            \
	"250 SMTPUTF8\r\n"
#define SENDMAIL                                                                                \
	"250-mx.example.org Hello client [192.0.2.1], pleased to meet you\r\n"                  \
	"250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-EXPN\r\n250-VERB\r\n250-8BITMIME\r\n" \
	"250-SIZE\r\n250-DSN\r\n250-ETRN\r\n250-AUTH DIGEST-MD5 CRAM-MD5\r\n250-STARTTLS\r\n"   \
	"250-DELIVERBY\r\n250 HELP\r\n"

static struct smtp_reply parse(const char *text)
{
	struct reply_scan rs = {0};
	struct smtp_reply r;
	size_t used;

	cr_assert(smtp_reply_scan(span_str(text), &rs, &r, &used) == REPLY_OK, "%s", text);
	cr_assert(used == strlen(text));
	return r;
}

static struct ehlo_policy defaults(void)
{
	struct ehlo_policy pol = {0};

	for (unsigned e = 0; e < EXT_COUNT; e++)
		pol.policy[e] = (uint8_t)ext_default((enum smtp_ext)e);
	return pol;
}

/* What a client is shown of `in`; asserts that it is a reply again, whose caps are a subset. */
static const char *shown(const char *in, const struct ehlo_policy *pol)
{
	static uint8_t out[4096];
	struct smtp_reply r = parse(in), again;
	struct ehlo_caps caps, after;
	size_t n;

	smtp_ehlo_read(&r, &caps);
	n = smtp_ehlo_write(&r, &caps, pol, out, sizeof(out) - 1);
	cr_assert(n > 0 && n < sizeof(out));
	out[n] = 0;
	again = parse((char *)out);
	cr_assert(!again.bare_lf);
	smtp_ehlo_read(&again, &after);
	cr_assert((after.bits & ~(caps.bits | 1ull << EXT_PIPELINING |
					(uint64_t)pol->own_starttls << EXT_STARTTLS)) == 0);
	return (char *)out;
}

struct row {
	const char *in, *out;
};

static const struct row default_rows[] = {
	{POSTFIX, "250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n"
		  "250-ETRN\r\n250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN LOGIN\r\n"
		  "250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n"
		  "250 CHUNKING\r\n"},
	{EXIM, "250-mx.example.org Hello client [192.0.2.1]\r\n250-SIZE 52428800\r\n250-LIMITS "
	       "MAILMAX=1000 RCPTMAX=50000\r\n250-8BITMIME\r\n250-PIPELINING\r\n"
	       "250-PIPECONNECT\r\n250-CHUNKING\r\n250 HELP\r\n"},
	{EXCHANGE, "250-AM0PR01.mail.protection.outlook.com Hello [192.0.2.1]\r\n"
		   "250-SIZE 157286400\r\n250-PIPELINING\r\n250-DSN\r\n"
		   "250-ENHANCEDSTATUSCODES\r\n250-AUTH NTLM\r\n250-8BITMIME\r\n"
		   "250-BINARYMIME\r\n250-CHUNKING\r\n250-XRDST\r\n250 SMTPUTF8\r\n"},
	{GMAIL, "250-mx.google.com at your service, [192.0.2.1]\r\n250-SIZE 157286400\r\n"
		"250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-CHUNKING\r\n"
		"250 SMTPUTF8\r\n"},
	{SENDMAIL, "250-mx.example.org Hello client [192.0.2.1], pleased to meet you\r\n"
		   "250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-EXPN\r\n250-VERB\r\n"
		   "250-8BITMIME\r\n250-SIZE\r\n250-DSN\r\n250-ETRN\r\n"
		   "250-AUTH DIGEST-MD5 CRAM-MD5\r\n250-DELIVERBY\r\n250 HELP\r\n"},
	/* the last line goes: the one before it gets the space */
	{"250-a\r\n250-PIPELINING\r\n250-DSN\r\n250 STARTTLS\r\n",
		"250-a\r\n250-PIPELINING\r\n250 DSN\r\n"},
	/* every line but the first goes */
	{"250-a\r\n250-XCLIENT NAME\r\n250-XFORWARD NAME\r\n250 BURL\r\n",
		"250-a\r\n250 PIPELINING\r\n"},
	/* a server without extensions */
	{"250 a\r\n", "250-a\r\n250 PIPELINING\r\n"},
	{"250\r\n", "250-\r\n250 PIPELINING\r\n"},
	{"250-a\r\n250 DSN\r\n", "250-a\r\n250-DSN\r\n250 PIPELINING\r\n"},
	/* line ends become CRLF, nothing else changes */
	{"250-a  b \n250-pipelining\n250 dsn\n", "250-a  b \r\n250-pipelining\r\n250 dsn\r\n"},
	{"250-a\r\n250-Pipelining\r\n250-\r\n250-starttls\r\n250 XClient NAME\r\n",
		"250-a\r\n250-Pipelining\r\n250 \r\n"},
	/* the first line is no keyword, whatever it says */
	{"250-STARTTLS\r\n250 PIPELINING\r\n", "250-STARTTLS\r\n250 PIPELINING\r\n"},
	{"250-PIPELINING\r\n250 DSN\r\n", "250-PIPELINING\r\n250-DSN\r\n250 PIPELINING\r\n"},
	/* a keyword is a whole word */
	{"250-a\r\n250-STARTTLSX\r\n250-XSTARTTLS\r\n250 PIPELINING\r\n",
		"250-a\r\n250-STARTTLSX\r\n250-XSTARTTLS\r\n250 PIPELINING\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250-STARTTLS x\r\n250-  BURL x\r\n250 BURL=imap\r\n",
		"250-a\r\n250 PIPELINING\r\n"},
	/* BINARYMIME without CHUNKING */
	{"250-a\r\n250-PIPELINING\r\n250 BINARYMIME\r\n", "250-a\r\n250 PIPELINING\r\n"},
};

static void check_rows(const struct row *rows, size_t n, const struct ehlo_policy *pol)
{
	for (size_t i = 0; i < n; i++)
		cr_expect_str_eq(shown(rows[i].in, pol), rows[i].out, "row %zu: %s", i,
			shown(rows[i].in, pol));
}

Test(ehlo, by_default)
{
	struct ehlo_policy pol = defaults();

	check_rows(default_rows, ARRAY_LEN(default_rows), &pol);
}

static const struct row size_rows[] = {
	{"250-a\r\n250-PIPELINING\r\n250 SIZE 10\r\n",
		"250-a\r\n250-PIPELINING\r\n250 SIZE 10\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250 size 1000\r\n",
		"250-a\r\n250-PIPELINING\r\n250 size 1000\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250 SIZE 1001\r\n",
		"250-a\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250 size 0\r\n",
		"250-a\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250 SIZE\r\n", "250-a\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250 SIZE lots\r\n",
		"250-a\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250 SIZE 99999999999999999999\r\n",
		"250-a\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"},
	{"250-a\r\n250 PIPELINING\r\n", "250-a\r\n250 PIPELINING\r\n"},
	/* said twice: the smaller limit counts, and 0 is none */
	{"250-a\r\n250-PIPELINING\r\n250-SIZE 5000\r\n250-SIZE 2000\r\n250 SIZE 0\r\n",
		"250-a\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-SIZE 1000\r\n250 SIZE 1000\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250-SIZE 10\r\n250 SIZE 20\r\n",
		"250-a\r\n250-PIPELINING\r\n250-SIZE 10\r\n250 SIZE 20\r\n"},
};

Test(ehlo, size_is_the_smaller)
{
	struct ehlo_policy pol = defaults();

	pol.size_max = 1000;
	check_rows(size_rows, ARRAY_LEN(size_rows), &pol);
	pol.policy[EXT_SIZE] = EXT_PASS;
	cr_expect_str_eq(shown("250-a\r\n250-PIPELINING\r\n250 SIZE 2000\r\n", &pol),
		"250-a\r\n250-PIPELINING\r\n250 SIZE 2000\r\n");
	pol.policy[EXT_SIZE] = EXT_STRIP;
	cr_expect_str_eq(shown("250-a\r\n250-PIPELINING\r\n250 SIZE 2000\r\n", &pol),
		"250-a\r\n250 PIPELINING\r\n");
	pol.policy[EXT_SIZE] = EXT_OWN;
	pol.size_max = UINT64_MAX;
	cr_expect_str_eq(shown("250-a\r\n250-PIPELINING\r\n250 SIZE\r\n", &pol),
		"250-a\r\n250-PIPELINING\r\n250 SIZE 18446744073709551615\r\n");
}

Test(ehlo, starttls)
{
	struct ehlo_policy pol = defaults();
	const char *with = "250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n";
	const char *without = "250-a\r\n250 PIPELINING\r\n";

	cr_expect_str_eq(shown(with, &pol), without);
	pol.show_starttls = true;
	cr_expect_str_eq(shown(with, &pol), with);
	cr_expect_str_eq(shown(without, &pol), without, "never invented");
	pol.policy[EXT_STARTTLS] = EXT_STRIP;
	cr_expect_str_eq(shown(with, &pol), without);
}

/* Where TLS ends here, only ours is shown. */
static const struct row own_starttls_rows[] = {
	{"250-a\r\n250-PIPELINING\r\n250 DSN\r\n",
		"250-a\r\n250-PIPELINING\r\n250-DSN\r\n250 STARTTLS\r\n"},
	{"250-a\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
		"250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n"},
	{"250-a\r\n250-PIPELINING\r\n250-starttls x\r\n250 Starttls\r\n",
		"250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n"},
	{"250 a\r\n", "250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n"},
	{"250-a\n250 PIPELINING\n", "250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n"},
};

Test(ehlo, own_starttls)
{
	struct ehlo_policy pol = defaults();

	pol.own_starttls = true;
	check_rows(own_starttls_rows, ARRAY_LEN(own_starttls_rows), &pol);
	pol.show_starttls = true;
	check_rows(own_starttls_rows, ARRAY_LEN(own_starttls_rows), &pol);
	pol.show_starttls = false;
	pol.policy[EXT_STARTTLS] = EXT_STRIP; /* of the server's only */
	check_rows(own_starttls_rows, ARRAY_LEN(own_starttls_rows), &pol);
	pol.policy[EXT_PIPELINING] = EXT_STRIP;
	cr_expect_str_eq(shown("250 a\r\n", &pol), "250-a\r\n250 STARTTLS\r\n");
}

Test(ehlo, auth_is_hidden)
{
	struct ehlo_policy pol = defaults();
	const char *with = "250-a\r\n250-PIPELINING\r\n250-AUTH PLAIN\r\n250 AUTH=LOGIN\r\n";

	cr_expect_str_eq(shown(with, &pol), with);
	pol.hide_auth = true;
	cr_expect_str_eq(shown(with, &pol), "250-a\r\n250 PIPELINING\r\n");
	cr_expect_str_eq(shown("250-a\r\n250-PIPELINING\r\n250-auth x\r\n250 AUTHX\r\n", &pol),
		"250-a\r\n250-PIPELINING\r\n250 AUTHX\r\n");
	pol.own_starttls = true;
	cr_expect_str_eq(shown(with, &pol), "250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
	pol.hide_auth = false;
	pol.policy[EXT_AUTH] = EXT_STRIP;
	cr_expect_str_eq(shown(with, &pol), "250-a\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
}

Test(ehlo, trusted)
{
	struct ehlo_policy pol = defaults();
	const char *with =
		"250-a\r\n250-PIPELINING\r\n250-XCLIENT NAME ADDR\r\n250 XFORWARD NAME\r\n";

	cr_expect_str_eq(shown(with, &pol), "250-a\r\n250 PIPELINING\r\n");
	pol.trusted = true;
	cr_expect_str_eq(shown(with, &pol), with);
	cr_expect_str_eq(shown("250-a\r\n250 PIPELINING\r\n", &pol), "250-a\r\n250 PIPELINING\r\n");
	pol.trusted = false;
	pol.policy[EXT_XCLIENT] = EXT_PASS;
	cr_expect_str_eq(shown(with, &pol), "250-a\r\n250 PIPELINING\r\n");
}

Test(ehlo, chunking_takes_binarymime_along)
{
	struct ehlo_policy pol = defaults();

	pol.policy[EXT_CHUNKING] = EXT_STRIP;
	cr_expect_str_eq(
		shown("250-a\r\n250-PIPELINING\r\n250-BINARYMIME\r\n250 CHUNKING\r\n", &pol),
		"250-a\r\n250 PIPELINING\r\n");
	pol = defaults();
	cr_expect_str_eq(shown("250-a\r\n250-PIPELINING\r\n250 BINARYMIME\r\n", &pol),
		"250-a\r\n250 PIPELINING\r\n", "nor without a server that has it");
	pol.policy[EXT_BINARYMIME] = EXT_STRIP;
	cr_expect_str_eq(
		shown("250-a\r\n250-PIPELINING\r\n250-BINARYMIME\r\n250 CHUNKING\r\n", &pol),
		"250-a\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
}

Test(ehlo, pipelining_by_policy)
{
	struct ehlo_policy pol = defaults();

	pol.policy[EXT_PIPELINING] = EXT_PASS;
	cr_expect_str_eq(shown("250 a\r\n", &pol), "250 a\r\n");
	cr_expect_str_eq(shown("250-a\r\n250 PIPELINING\r\n", &pol), "250-a\r\n250 PIPELINING\r\n");
	pol.policy[EXT_PIPELINING] = EXT_STRIP;
	cr_expect_str_eq(shown("250-a\r\n250 PIPELINING\r\n", &pol), "250 a\r\n");
	cr_expect_str_eq(
		shown("250-a\r\n250-PIPELINING\r\n250 DSN\r\n", &pol), "250-a\r\n250 DSN\r\n");
}

Test(ehlo, names_and_the_rest)
{
	struct ehlo_policy pol = defaults();
	const char *in = "250-a\r\n250-PIPELINING\r\n250-XFOO\r\n250-XBAR x\r\n250 DSN\r\n";

	pol.named[0].keyword = SPAN_LIT("xfoo");
	pol.named[0].policy = EXT_STRIP;
	pol.named_count = 1;
	cr_expect_str_eq(shown(in, &pol), "250-a\r\n250-PIPELINING\r\n250-XBAR x\r\n250 DSN\r\n");
	pol.policy[EXT_OTHER] = EXT_STRIP;
	cr_expect_str_eq(shown(in, &pol), "250-a\r\n250-PIPELINING\r\n250 DSN\r\n");
	pol.named[0].policy = EXT_PASS;
	cr_expect_str_eq(shown(in, &pol), "250-a\r\n250-PIPELINING\r\n250-XFOO\r\n250 DSN\r\n");
	pol.policy[EXT_DSN] = EXT_STRIP;
	cr_expect_str_eq(shown(in, &pol), "250-a\r\n250-PIPELINING\r\n250 XFOO\r\n");
}

/* No size of the output buffer is written past; too small is 0, one octet short as well. */
Test(ehlo, room)
{
	struct ehlo_policy pol = defaults();
	struct smtp_reply r = parse(SENDMAIL);
	struct ehlo_caps caps;
	uint8_t whole[1024];
	size_t n;

	smtp_ehlo_read(&r, &caps);
	n = smtp_ehlo_write(&r, &caps, &pol, whole, sizeof(whole));
	cr_assert(n > 0);
	for (size_t max = 0; max < n; max++) {
		uint8_t *out = malloc(max ? max : 1);

		cr_expect(smtp_ehlo_write(&r, &caps, &pol, out, max) == 0, "%zu", max);
		free(out);
	}
	memset(whole, 0x55, sizeof(whole));
	cr_expect(smtp_ehlo_write(&r, &caps, &pol, whole, n) == n);
	cr_expect(whole[n] == 0x55);
}

/* ---- reading ---- */

#define BIT(e) (UINT64_C(1) << (e))

static const struct {
	const char *in;
	uint64_t bits;
	bool has_size_value;
	uint64_t size;
} read_rows[] = {
	{"250 a\r\n", 0, false, 0},
	{"250-a\r\n250-PIPELINING\r\n250 SIZE 10\r\n", BIT(EXT_PIPELINING) | BIT(EXT_SIZE), true,
		10},
	{"250-a\r\n250-pipelining\r\n250 Size\r\n", BIT(EXT_PIPELINING) | BIT(EXT_SIZE), false, 0},
	{"250-a\r\n250 SIZE 0\r\n", BIT(EXT_SIZE), true, 0},
	{"250-a\r\n250 SIZE  7 \r\n", BIT(EXT_SIZE), true, 7},
	{"250-a\r\n250 SIZE=7\r\n", BIT(EXT_SIZE), true, 7},
	{"250-a\r\n250 SIZE x\r\n", BIT(EXT_SIZE), false, 0},
	{"250-a\r\n250-SIZE 9\r\n250 SIZE 7\r\n", BIT(EXT_SIZE), true, 7},
	{"250-a\r\n250-SIZE 7\r\n250 SIZE 0\r\n", BIT(EXT_SIZE), true, 7},
	{"250-a\r\n250 AUTH LOGIN PLAIN\r\n", BIT(EXT_AUTH), false, 0},
	{"250-a\r\n250 AUTH=LOGIN PLAIN\r\n", BIT(EXT_AUTH), false, 0},
	{"250-a\r\n250 auth=LOGIN\r\n", BIT(EXT_AUTH), false, 0},
	{"250-STARTTLS\r\n250 XYZZY\r\n", BIT(EXT_OTHER), false, 0},
	{"250-a\r\n250 \r\n", BIT(EXT_OTHER), false, 0},
	{GMAIL,
		BIT(EXT_SIZE) | BIT(EXT_8BITMIME) | BIT(EXT_STARTTLS) |
			BIT(EXT_ENHANCEDSTATUSCODES) | BIT(EXT_PIPELINING) | BIT(EXT_CHUNKING) |
			BIT(EXT_SMTPUTF8),
		true, 157286400},
	{EXCHANGE,
		BIT(EXT_SIZE) | BIT(EXT_PIPELINING) | BIT(EXT_DSN) | BIT(EXT_ENHANCEDSTATUSCODES) |
			BIT(EXT_STARTTLS) | BIT(EXT_X_ANONYMOUSTLS) | BIT(EXT_AUTH) |
			BIT(EXT_X_EXPS) | BIT(EXT_8BITMIME) | BIT(EXT_BINARYMIME) |
			BIT(EXT_CHUNKING) | BIT(EXT_XEXCH50) | BIT(EXT_OTHER) | BIT(EXT_SMTPUTF8),
		true, 157286400},
};

Test(ehlo, read)
{
	for (size_t i = 0; i < ARRAY_LEN(read_rows); i++) {
		struct smtp_reply r = parse(read_rows[i].in);
		struct ehlo_caps caps;

		smtp_ehlo_read(&r, &caps);
		cr_expect(caps.bits == read_rows[i].bits, "row %zu", i);
		cr_expect(caps.has_size_value == read_rows[i].has_size_value, "row %zu", i);
		cr_expect(caps.size == read_rows[i].size, "row %zu", i);
	}
}

static uint64_t hash(const char *in)
{
	struct smtp_reply r = parse(in);
	struct ehlo_caps caps;

	smtp_ehlo_read(&r, &caps);
	return caps.hash;
}

Test(ehlo, hash)
{
	uint64_t h = hash("250-a\r\n250-DSN\r\n250 SIZE 1\r\n");

	cr_expect(h == hash("250-another host\r\n250-DSN\n250 SIZE 1\r\n"), "not the first line");
	cr_expect(h != hash("250-a\r\n250-SIZE 1\r\n250 DSN\r\n"), "the order");
	cr_expect(h != hash("250-a\r\n250-DSN\r\n250 SIZE 2\r\n"), "the values");
	cr_expect(h != hash("250-a\r\n250 DSN\r\n"), "the number");
	cr_expect(hash("250-a\r\n250-A\r\n250 B\r\n") != hash("250-a\r\n250-AB\r\n250 \r\n"));
	cr_expect(hash("250 a\r\n") == hash("250 b\r\n"));
	cr_expect(hash("250 a\r\n") != hash("250-a\r\n250 \r\n"));
}

Test(ehlo, table)
{
	for (unsigned e = 0; e < EXT_OTHER; e++)
		cr_expect(ext_find(span_str(ext_keywords[e])) == e, "%s", ext_keywords[e]);
	cr_expect(ext_find(SPAN_LIT("chunking")) == EXT_CHUNKING);
	cr_expect(ext_find(SPAN_LIT("*")) == EXT_OTHER && ext_find(SPAN_NONE) == EXT_OTHER);
	cr_expect_str_eq(ext_keywords[EXT_OTHER], "*");
	cr_expect(ext_default(EXT_OTHER) == EXT_PASS && ext_default(EXT_BURL) == EXT_STRIP);
	cr_expect(ext_default(EXT_PIPELINING) == EXT_OWN);
}

/* A reply without a line, which no caller has, offers nothing. */
Test(ehlo, nothing_to_read)
{
	struct smtp_reply r = {.code = 250, .raw = SPAN_NONE};
	struct ehlo_caps caps;

	smtp_ehlo_read(&r, &caps);
	cr_expect(caps.bits == 0 && caps.size == 0 && !caps.has_size_value);
}
