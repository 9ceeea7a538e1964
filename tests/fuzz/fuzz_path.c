/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The arguments of MAIL and RCPT: smtp_path_parse, smtp_param_next, smtp_mail_params,
 * smtp_rcpt_params, smtp_xtext_valid. The reference is one regular expression for the path and one
 * for each known parameter. Claimed:
 *  - a path is taken exactly when the grammar has it, and the limits and the parameters' syntax are
 *    judged in that order;
 *  - its parts lie in each other, are by themselves what they are said to be, and put together
 *    again, alone between brackets, they are read as the same path;
 *  - the first parameter that is wrong is the one that is named, and none is when none is.
 * Input: octet 0 bit 0 RCPT instead of MAIL, octet 1 how many times 16 octets each 0x01 in the rest
 * stands for (0: for itself); the rest is the arguments.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/cmd.h"

#include <strings.h>

#define ARGS_BYTES_MAX 3000 /* the limits are 1024 and 255 */

#define ATEXT "A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-"
#define QUOTED "\"([^\\\"\x01-\x1f\x7f]|\\\\[^\x01-\x1f\x7f])*\""
#define WORD "([" ATEXT "]+|" QUOTED ")"
#define LOCAL "(" WORD "(\\." WORD "?)*|(\\." WORD "?)+)"
#define DOMAIN "([." ATEXT "]+|\\[[.:" ATEXT "]+])"
#define MAILBOX LOCAL "(@" DOMAIN ")?"
#define ROUTE "(@" DOMAIN "(,@" DOMAIN ")*:)?"
#define BEHIND "([ \t]|$)"

static struct grammar g_local = GRAMMAR("^" LOCAL "$");
static struct grammar g_domain = GRAMMAR("^" DOMAIN "$");
static struct grammar g_mailbox = GRAMMAR("^" MAILBOX BEHIND);
static struct grammar g_bracketed = GRAMMAR("^<" ROUTE MAILBOX ">" BEHIND);
static struct grammar g_null = GRAMMAR("^<>" BEHIND);
/* Some would take it for <>. */
static struct grammar g_nobody = GRAMMAR("^(<" ROUTE "\"\">|\"\")" BEHIND);
static struct grammar g_param = GRAMMAR("^[A-Za-z0-9][A-Za-z0-9-]*(=[!-~\x80-\xff]+)?$");

/* ---- parameters ---- */

#define XTEXT "([!-*,-~]|\\+[0-9A-Fa-f]{2})"
#define DATE                                                        \
	"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T"        \
	"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\\.[0-9]+)?" \
	"(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])"
#define WHEN "(SUCCESS|FAILURE|DELAY)"

struct param_form {
	const char *name;
	size_t value_max; /* octets, 0: no limit */
	struct grammar all;
};

static struct param_form mail_forms[] = {
	{"SIZE", 0, GRAMMAR_ANY_CASE("^SIZE=[0-9]{1,20}$")},
	{"BODY", 0, GRAMMAR_ANY_CASE("^BODY=(7BIT|8BITMIME|BINARYMIME)$")},
	{"SMTPUTF8", 0, GRAMMAR_ANY_CASE("^SMTPUTF8$")},
	{"REQUIRETLS", 0, GRAMMAR_ANY_CASE("^REQUIRETLS$")},
	{"RET", 0, GRAMMAR_ANY_CASE("^RET=(FULL|HDRS)$")},
	{"ENVID", 100, GRAMMAR_ANY_CASE("^ENVID=" XTEXT "+$")},
	{"AUTH", 0, GRAMMAR_ANY_CASE("^AUTH=" XTEXT "+$")},
	{"BY", 0, GRAMMAR_ANY_CASE("^BY=[-+]?[0-9]{1,9};[NR]T?$")},
	{"HOLDFOR", 0, GRAMMAR_ANY_CASE("^HOLDFOR=[0-9]{1,9}$")},
	{"HOLDUNTIL", 0, GRAMMAR_ANY_CASE("^HOLDUNTIL=" DATE "$")},
	{"MT-PRIORITY", 0, GRAMMAR_ANY_CASE("^MT-PRIORITY=(-[1-9]|[0-9])$")},
};
static struct param_form rcpt_forms[] = {
	{"NOTIFY", 0, GRAMMAR_ANY_CASE("^NOTIFY=(NEVER|" WHEN "(," WHEN ")*)$")},
	{"ORCPT", 500, GRAMMAR_ANY_CASE("^ORCPT=([" ATEXT "]+;" XTEXT "+|UTF-8;[!-~\x80-\xff]+)$")},
	{"RRVS", 0, GRAMMAR_ANY_CASE("^RRVS=" DATE "(;[CR])?$")},
};

static bool named(struct span name, const char *word)
{
	return name.n == strlen(word) && strncasecmp((const char *)name.p, word, name.n) == 0;
}

/* Twenty digits may be too much. */
static bool fits_64(struct span digits)
{
	return digits.n < 20 || memcmp(digits.p, "18446744073709551615", 20) <= 0;
}

static bool param_good(struct span whole, const struct smtp_param *p, bool is_rcpt)
{
	struct param_form *forms = is_rcpt ? rcpt_forms : mail_forms;
	size_t count = is_rcpt ? ARRAY_LEN(rcpt_forms) : ARRAY_LEN(mail_forms);

	for (size_t i = 0; i < count; i++) {
		if (!named(p->name, forms[i].name))
			continue;
		if (forms[i].value_max > 0 && p->value.n > forms[i].value_max)
			return false;
		if (named(p->name, "SIZE") && !fits_64(p->value))
			return false;
		return grammar_has(&forms[i].all, whole);
	}
	return true;
}

/* Of MAIL's, HOLDFOR and HOLDUNTIL count as one name. */
static bool clash(struct span a, struct span b, bool is_rcpt)
{
	bool hold = named(a, "HOLDFOR") || named(a, "HOLDUNTIL");

	if (!is_rcpt && hold && (named(b, "HOLDFOR") || named(b, "HOLDUNTIL")))
		return true;
	return a.n == b.n && strncasecmp((const char *)a.p, (const char *)b.p, a.n) == 0;
}

/* The first parameter that is wrong. `params` are so by syntax. */
static struct span first_bad(struct span params, bool is_rcpt)
{
	struct span names[SMTP_PARAMS_MAX];
	struct smtp_param p;
	unsigned n = 0;

	while (smtp_param_next(&params, &p)) {
		struct span whole = span_of(p.name.p, p.name.n + (p.value.p ? 1 + p.value.n : 0));

		ASSERT(n < SMTP_PARAMS_MAX);
		for (unsigned i = 0; i < n; i++)
			if (clash(names[i], p.name, is_rcpt))
				return whole;
		if (!param_good(whole, &p, is_rcpt))
			return whole;
		names[n++] = p.name;
	}
	return SPAN_NONE;
}

static void check_params(struct span params, bool is_rcpt)
{
	struct smtp_mail_params mail;
	struct span want = first_bad(params, is_rcpt), bad;
	bool good =
		is_rcpt ? smtp_rcpt_params(params, &bad) : smtp_mail_params(params, &mail, &bad);

	ASSERT(good == !want.p);
	ASSERT(bad.n == want.n && (good || bad.p == want.p));
}

/* ---- paths ---- */

static bool blank(uint8_t c)
{
	return c == ' ' || c == '\t';
}

static bool params_good(struct span params)
{
	unsigned n = 0;

	while (params.n > 0) {
		size_t word = 0;

		while (word < params.n && !blank(params.p[word]))
			word++;
		if (word > 0 &&
			(++n > SMTP_PARAMS_MAX || !grammar_has(&g_param, span_of(params.p, word))))
			return false;
		params = span_drop(params, MIN_OF(word + 1, params.n));
	}
	return true;
}

/* What is to come of it, limits and parameters left aside. */
static enum path_res expect(struct span args, bool is_rcpt)
{
	const char *keyword = is_rcpt ? "TO:" : "FROM:";
	size_t n = strlen(keyword);

	if (args.n < n || strncasecmp((const char *)args.p, keyword, n) != 0)
		return PATH_NO_KEYWORD;
	for (args = span_drop(args, n); args.n > 0 && blank(args.p[0]);)
		args = span_drop(args, 1);
	if (grammar_has(&g_null, args))
		return is_rcpt ? PATH_BAD : PATH_OK;
	if (grammar_has(&g_nobody, args))
		return PATH_BAD;
	return grammar_has(&g_bracketed, args) || grammar_has(&g_mailbox, args) ? PATH_OK
										: PATH_BAD;
}

/* The mailbox alone, between brackets, is the same one. */
static void check_rebuilt(const struct smtp_path *path, bool is_rcpt)
{
	static char text[ARGS_BYTES_MAX + 64];
	int n = snprintf(text, sizeof(text), "%s:<%.*s>", is_rcpt ? "tO" : "fRoM",
		(int)path->mailbox.n, (const char *)path->mailbox.p);
	struct smtp_path again;

	ASSERT(n > 0 && (size_t)n < sizeof(text));
	ASSERT(smtp_path_parse(span_of(text, (size_t)n), is_rcpt, &again) == PATH_OK);
	ASSERT(again.null == path->null && again.utf8 == path->utf8);
	ASSERT(span_eq(again.local, path->local) && span_eq(again.domain, path->domain));
}

static void check_parts(const struct smtp_path *path, struct span args)
{
	bool high = false;

	ASSERT(lies_in(path->mailbox, args) && lies_in(path->params, args));
	if (path->null) {
		ASSERT(path->mailbox.n == 0 && path->local.n == 0 && path->domain.n == 0);
		return;
	}
	ASSERT(path->local.p == path->mailbox.p && path->local.n > 0);
	ASSERT(grammar_has(&g_local, path->local));
	if (path->domain.n > 0) {
		ASSERT(path->domain.p == path->local.p + path->local.n + 1);
		ASSERT(path->domain.p[-1] == '@' && grammar_has(&g_domain, path->domain));
	}
	ASSERT(path->mailbox.n == path->local.n + (path->domain.n > 0 ? 1 + path->domain.n : 0));
	for (size_t i = 0; i < path->mailbox.n; i++)
		high |= path->mailbox.p[i] > 127;
	ASSERT(path->utf8 == high);
}

static void check(struct span args, bool is_rcpt)
{
	enum path_res want = expect(args, is_rcpt);
	struct smtp_path path;
	enum path_res got = smtp_path_parse(args, is_rcpt, &path);

	if (want != PATH_OK || got == PATH_NO_KEYWORD || got == PATH_BAD) {
		ASSERT(got == want);
		return;
	}
	check_parts(&path, args);
	if (path.mailbox.n > SMTP_PATH_BYTES_MAX || path.domain.n > SMTP_DOMAIN_BYTES_MAX)
		ASSERT(got == PATH_TOO_LONG);
	if (got == PATH_TOO_LONG) { /* the route counts, and is not handed out */
		ASSERT(args.n > SMTP_DOMAIN_BYTES_MAX);
		return;
	}
	ASSERT(got == (params_good(path.params) ? PATH_OK : PATH_BAD_PARAM));
	if (got != PATH_OK)
		return;
	check_rebuilt(&path, is_rcpt);
	check_params(path.params, is_rcpt);
}

/* A NUL becomes another control: regcomp() cannot name it. */
static struct span inflate(struct span in, size_t times)
{
	static uint8_t out[ARGS_BYTES_MAX];
	size_t n = 0;

	for (size_t i = 0; i < in.n; i++) {
		bool swell = in.p[i] == 1 && times > 0;
		size_t more = swell ? times : 1;

		if (more > sizeof(out) - n)
			break;
		memset(out + n, swell ? 'a' : MAX_OF(in.p[i], 1), more);
		n += more;
	}
	return span_of(out, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n);
	bool is_rcpt = take_octet(&in) & 1;
	size_t times = 16 * (size_t)take_octet(&in);
	struct span args = exact_copy(inflate(in, times));

	check(args, is_rcpt);
	exact_free(args);
	return 0;
}
