/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The codec of policy delegation: policy_write, policy_read. Claimed, for any octets:
 *  - a reply reads the same whole and in pieces: every prefix says "more" until the octet that
 *    decides, and the same result with the same parts from there on;
 *  - it is the result of a plain reader: two regular expressions for each line, one for the whole;
 *  - the kind of an action is that of the one grammar of all that has it;
 *  - its spans lie in the input, a header is a header by grammar and one line;
 *  - a refusal written for the client is exactly one line below 512 octets, of printable ASCII,
 * with the code at its front and an enhanced code of the same class;
 *  - a request, whatever its values hold, reads back as every attribute once, in order, with what
 *    the values hold but for controls and the states that have none; it ends at its first empty
 *    line; exactly its length is needed.
 * Input: octet 0 bit 0 a request instead of a reply, octet 1 how many times 16 octets each 0x01 in
 * the rest stands for (0: for itself). Request: octet 2 the state, then for each member its length
 * and its octets. Reply: the rest.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/hook/policy/policy_wire.h"

#define INPUT_BYTES_MAX 6000 /* above POLICY_REPLY_BYTES_MAX */
#define EVERY_CUT_BYTES_MAX 300

static struct span inflate(struct span in, size_t times)
{
	static uint8_t out[INPUT_BYTES_MAX];
	size_t n = 0;

	for (size_t i = 0; i < in.n; i++) {
		bool swell = in.p[i] == 1 && times > 0;
		size_t more = swell ? times : 1;

		if (more > sizeof(out) - n)
			break;
		memset(out + n, swell ? 'x' : in.p[i], more);
		n += more;
	}
	return span_of(out, n);
}

/* ---- the plain reader ---- */

struct plain {
	enum policy_res res;
	size_t decided; /* octets up to the one that decides */
	struct span action;
};

static bool has_nul(struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] == 0)
			return true;
	return false;
}

/* A line that is not empty, without its end. */
static enum policy_res plain_line(struct span line, unsigned *actions, struct span *action)
{
	static struct grammar pair = GRAMMAR("^[^=]+="), act = GRAMMAR("^action=");

	if (has_nul(line))
		return POLICY_NUL;
	if (!grammar_has(&pair, line))
		return POLICY_NO_PAIR;
	if (!grammar_has(&act, line))
		return POLICY_MORE;
	*action = span_drop(line, 7);
	return ++*actions > 1 ? POLICY_TWO_ACTIONS : POLICY_MORE;
}

static struct plain read_plainly(struct span in)
{
	struct plain o = {.res = POLICY_MORE};
	unsigned actions = 0;
	size_t start = 0;

	for (size_t i = 0; i < in.n && o.res == POLICY_MORE; i++) {
		o.decided = i + 1;
		if (in.p[i] == '\n') {
			struct span line = span_of(in.p + start, i - start);

			if (line.n > 0 && line.p[line.n - 1] == '\r')
				line.n--;
			if (line.n == 0)
				o.res = actions == 0 ? POLICY_NO_ACTION : POLICY_OK;
			else
				o.res = plain_line(line, &actions, &o.action);
			start = i + 1;
		}
		if (o.res == POLICY_MORE && i + 1 == POLICY_REPLY_BYTES_MAX)
			o.res = POLICY_TOO_LONG;
	}
	return o;
}

/* ---- actions ---- */

#define B "[ \t]*"
#define BEHIND "([ \t]|$)"
#define TEXT_OF_HEADER "[\t -~\x80-\xff]*"

static struct action_form {
	enum policy_kind kind;
	const char *code; /* of a refusal; "" = what is in the action */
	struct grammar all;
} forms[] = {
	{POLICY_PASS, NULL, GRAMMAR("^" B "([0-9]+)?$")},
	{POLICY_PASS, NULL, GRAMMAR_ANY_CASE("^" B "(OK|RELAY|PERMIT|DUNNO)" BEHIND)},
	{POLICY_REJECT, "554", GRAMMAR_ANY_CASE("^" B "REJECT" BEHIND)},
	{POLICY_TEMPFAIL, "450", GRAMMAR_ANY_CASE("^" B "DEFER" BEHIND)},
	{POLICY_DEFER_IF_PERMIT, "450", GRAMMAR_ANY_CASE("^" B "DEFER_IF_PERMIT" BEHIND)},
	{POLICY_DEFER_IF_REJECT, "450", GRAMMAR_ANY_CASE("^" B "DEFER_IF_REJECT" BEHIND)},
	{POLICY_CODE, "", GRAMMAR("^" B "[45][0-9][0-9][ \t]")},
	{POLICY_DISCARD, NULL, GRAMMAR_ANY_CASE("^" B "DISCARD" BEHIND)},
	{POLICY_PREPEND, NULL,
		GRAMMAR_ANY_CASE("^" B "PREPEND[ \t]+[!-9;-~]+:" TEXT_OF_HEADER "$")},
	{POLICY_BAD_HEADER, NULL, GRAMMAR_ANY_CASE("^" B "PREPEND" BEHIND)},
	{POLICY_WARN, NULL, GRAMMAR_ANY_CASE("^" B "WARN" BEHIND)},
	{POLICY_INFO, NULL, GRAMMAR_ANY_CASE("^" B "INFO" BEHIND)},
	{POLICY_UNSUPPORTED, NULL,
		GRAMMAR_ANY_CASE("^" B "(HOLD|FILTER|REDIRECT|BCC|DELAY)" BEHIND)},
	{POLICY_UNKNOWN, NULL, GRAMMAR("")},
};

/* The first that has it. */
static const struct action_form *form_of(struct span action)
{
	size_t i = 0;

	while (!grammar_has(&forms[i].all, action))
		i++;
	return &forms[i];
}

/* Whose enhanced code it is: the text's, then that is not said twice, or the default. */
static void check_enhanced(const struct policy_reply *r)
{
	static struct grammar own4 = GRAMMAR("^4(\\.[0-9]{1,3}){2}([ \t]|$)");
	static struct grammar own5 = GRAMMAR("^5(\\.[0-9]{1,3}){2}([ \t]|$)");
	size_t n = strlen(r->enhanced);

	if (grammar_has(r->code < 500 ? &own4 : &own5, r->argument)) {
		ASSERT(n <= r->argument.n && memcmp(r->enhanced, r->argument.p, n) == 0);
		ASSERT(r->argument.n == n || (r->text[0] != ' ' && r->text[0] != '\t'));
		ASSERT(r->argument.n == n || strlen(r->text) < r->argument.n);
		return;
	}
	ASSERT(strcmp(r->enhanced, r->code < 500 ? "4.7.1" : "5.7.1") == 0);
	if (r->argument.n > 0)
		ASSERT(strlen(r->text) == MIN_OF(r->argument.n, (size_t)POLICY_TEXT_BYTES_MAX));
}

/* What the client gets: one line, the code's. */
static void check_refusal(
	const struct policy_reply *r, const struct action_form *form, struct span action)
{
	static struct grammar line =
		GRAMMAR("^(4[0-9][0-9] 4|5[0-9][0-9] 5)(\\.[0-9]{1,3}){2} [ -~]+\r\n$");
	struct local_reply reply = {r->code, r->enhanced, r->text, "policy"};
	uint8_t out[LOCAL_REPLY_BYTES_MAX];
	size_t n = local_reply_write(&reply, NULL, out);

	ASSERT(n < LOCAL_REPLY_BYTES_MAX);
	ASSERT(memchr(out, '\n', n) == out + n - 1 && memchr(out, '\r', n) == out + n - 2);
	ASSERT(grammar_has(&line, span_of(out, n)));
	while (*form->code == 0 && (action.p[0] == ' ' || action.p[0] == '\t'))
		action = span_drop(action, 1);
	ASSERT(memcmp(out, *form->code ? (const void *)form->code : action.p, 3) == 0);
	ASSERT(n == 4 + strlen(r->enhanced) + 1 + strlen(r->text) + 2);
	check_enhanced(r);
}

static void check_texts(const struct policy_reply *r)
{
	size_t n = strlen(r->text);

	ASSERT(n <= POLICY_TEXT_BYTES_MAX);
	for (size_t i = 0; i < n; i++)
		ASSERT(r->text[i] >= 0x20 && r->text[i] <= 0x7e);
	if (r->code == 0) {
		ASSERT(r->enhanced[0] == 0 &&
			n == MIN_OF(r->argument.n, (size_t)POLICY_TEXT_BYTES_MAX));
		for (size_t i = 0; i < n; i++)
			ASSERT(r->text[i] == '?' || r->text[i] == (char)r->argument.p[i]);
	}
}

static void check_header(const struct policy_reply *r)
{
	static struct grammar header = GRAMMAR("^[!-9;-~]+:" TEXT_OF_HEADER "$");
	static struct grammar eight = GRAMMAR("[\x80-\xff]");

	ASSERT((r->kind == POLICY_PREPEND) == (r->header.n > 0));
	if (r->header.n == 0) {
		ASSERT(!r->header_8bit);
		return;
	}
	ASSERT(span_eq(r->header, r->argument) && r->header.n <= POLICY_HEADER_BYTES_MAX);
	ASSERT(grammar_has(&header, r->header));
	ASSERT(r->header_8bit == grammar_has(&eight, r->header));
}

static void check_action(const struct policy_reply *r, struct span action, struct span in)
{
	const struct action_form *form = form_of(action);

	ASSERT(lies_in(r->word, in) && lies_in(r->argument, in) && lies_in(r->header, in));
	if (form->kind == POLICY_PREPEND && r->argument.n > POLICY_HEADER_BYTES_MAX)
		ASSERT(r->kind == POLICY_BAD_HEADER);
	else
		ASSERT(r->kind == form->kind);
	ASSERT((r->code != 0) == (form->code != NULL));
	ASSERT(*r->name == 0 || span_ieq(r->word, span_str(r->name)));
	check_texts(r);
	check_header(r);
	if (form->code)
		check_refusal(r, form, action);
}

/* ---- pieces ---- */

static bool same_place(struct span a, const uint8_t *base_a, struct span b, const uint8_t *base_b)
{
	return a.n == b.n && (a.n == 0 || a.p - base_a == b.p - base_b);
}

/* What is there of the first `n` octets says the same as the whole. */
static void check_prefix(
	struct span whole, size_t n, const struct plain *want, const struct policy_reply *first)
{
	struct span in = exact_copy(span_of(whole.p, n));
	struct policy_reply r;
	size_t used;
	enum policy_res got = policy_read(in, &used, &r);

	ASSERT(got == (n < want->decided ? POLICY_MORE : want->res));
	ASSERT(used == (got == POLICY_OK ? want->decided : 0));
	if (got == POLICY_OK) {
		ASSERT(r.kind == first->kind && r.code == first->code && r.name == first->name);
		ASSERT(strcmp(r.text, first->text) == 0);
		ASSERT(strcmp(r.enhanced, first->enhanced) == 0);
		ASSERT(same_place(r.word, in.p, first->word, whole.p));
		ASSERT(same_place(r.argument, in.p, first->argument, whole.p));
		ASSERT(same_place(r.header, in.p, first->header, whole.p));
	}
	exact_free(in);
}

static void check_reply(struct span in)
{
	struct plain want = read_plainly(in);
	struct policy_reply r;
	size_t used, step = in.n > EVERY_CUT_BYTES_MAX ? in.n / 20 : 1;
	enum policy_res got = policy_read(in, &used, &r);

	ASSERT(got == want.res);
	ASSERT(used == (got == POLICY_OK ? want.decided : 0));
	if (got == POLICY_OK)
		check_action(&r, want.action, span_of(in.p, used));
	for (size_t n = 0; n <= in.n; n += step)
		check_prefix(in, n, &want, &r);
	if (want.decided > 0)
		check_prefix(in, want.decided - 1, &want, &r);
	check_prefix(in, want.decided, &want, &r);
}

/* ---- requests ---- */

static struct span take_value(struct span *in)
{
	size_t said = (size_t)take_octet(in) * 8, n = MIN_OF(said, in->n);
	struct span s = span_of(in->p, n);

	*in = span_drop(*in, n);
	return s;
}

static uint64_t take_number(struct span *in)
{
	uint64_t v = take_octet(in);

	return v << take_octet(in) % 64;
}

static struct policy_request take_request(struct span *in)
{
	struct policy_request r;

#define TAKE_FIXED(name)
#define TAKE_STATE(name) r.name = (enum policy_state)(take_octet(in) % POLICY_STATE_COUNT);
#define TAKE_TEXT(name) r.name = take_value(in);
#define TAKE_NUMBER(name) r.name = take_number(in);
#define X(name, kind, states) TAKE_##kind(name)
	POLICY_ATTRIBUTES(X)
#undef X
	return r;
}

/* Takes "name=" and what is behind it up to the LF off *rest. */
static struct span take_attribute(struct span *rest, const char *name)
{
	size_t n = strlen(name), end;
	const uint8_t *lf = rest->n > 0 ? memchr(rest->p, '\n', rest->n) : NULL;
	struct span value;

	ASSERT(lf && rest->n > n && memcmp(rest->p, name, n) == 0 && rest->p[n] == '=');
	end = (size_t)(lf - rest->p);
	value = span_of(rest->p + n + 1, end - n - 1);
	*rest = span_drop(*rest, end + 1);
	return value;
}

static void check_text(struct span got, struct span want, bool has)
{
	if (!has) {
		ASSERT(got.n == 0);
		return;
	}
	ASSERT(got.n == MIN_OF(want.n, (size_t)POLICY_TEXT_VALUE_BYTES_MAX));
	for (size_t i = 0; i < got.n; i++) {
		bool control = want.p[i] < 32 || want.p[i] == 127;

		ASSERT(got.p[i] == (control ? '?' : want.p[i]));
	}
}

static void check_number(struct span got, uint64_t want, bool has)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", has ? (unsigned long long)want : 0);
	ASSERT(span_eq(got, span_str(text)));
}

static void check_state(struct span got, enum policy_state want)
{
	static const char *const names[] = {"CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA",
		"END-OF-MESSAGE", "VRFY", "ETRN"};

	ASSERT(span_eq(got, span_str(names[want])));
}

/* The recipient is the one of RCPT and VRFY, later only when it is alone. */
static bool told(const struct policy_request *r, const char *name, unsigned states)
{
	enum policy_state s = r->protocol_state;

	if (strcmp(name, "recipient") == 0)
		return s == POLICY_AT_RCPT || s == POLICY_AT_VRFY ||
		       ((s == POLICY_AT_DATA || s == POLICY_AT_EOM) && r->recipient_count == 1);
	return (states & 1u << s) != 0;
}

static void check_request(const struct policy_request *r)
{
	static uint8_t out[POLICY_REQUEST_BYTES_MAX];
	size_t n = policy_write(r, out, sizeof(out));
	struct span all = span_of(out, n), rest = all, exact = exact_copy(all);

	ASSERT(n > 0 && memmem(out, n, "\n\n", 2) == out + n - 2);
#define CHECK_FIXED(name, has) ASSERT(span_eq(value, SPAN_LIT("smtpd_access_policy")));
#define CHECK_STATE(name, has) check_state(value, r->name);
#define CHECK_TEXT(name, has) check_text(value, r->name, has);
#define CHECK_NUMBER(name, has) check_number(value, r->name, has);
#define X(name, kind, states)                                          \
	{                                                              \
		struct span value = take_attribute(&rest, #name);      \
                                                                       \
		CHECK_##kind(name, told(r, #name, (unsigned)(states))) \
	}
	POLICY_ATTRIBUTES(X)
#undef X
	ASSERT(rest.n == 1);
	ASSERT(policy_write(r, (uint8_t *)(uintptr_t)exact.p, n) == n);
	ASSERT(memcmp(exact.p, out, n) == 0);
	ASSERT(policy_write(r, (uint8_t *)(uintptr_t)exact.p, n - 1) == 0);
	exact_free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n);
	bool request = take_octet(&in) & 1;
	size_t times = 16 * (size_t)take_octet(&in);
	struct span text = exact_copy(inflate(in, times));

	if (request) {
		struct span rest = text;
		struct policy_request r = take_request(&rest);

		check_request(&r);
	} else {
		check_reply(text);
	}
	exact_free(text);
	return 0;
}
