/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The milter protocol: all of engine/hook/milter/milter_wire.h. Claimed, for any octets:
 *  - packets are the same whether the octets come whole or one by one, each with the octet that
 *    decides it, and are those of a naive reader;
 *  - what is parsed lies in its packet; a reply, a header field, a reason is taken exactly when the
 *    grammar here has it; an address is read again as the same one;
 *  - what is built has its length in front, as many strings as it should, no octet behind its
 *    buffer, and is left out exactly when it does not fit;
 *  - a negotiation ends well exactly when version and bits were offered, and a reply is allowed
 *    only to a step that is replied to.
 * Input: octet 0 modulo 4 what to do (a stream, one packet without its length, build, negotiate),
 * octet 1 a limit or a choice, the rest is the material.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/hook/milter/milter_wire.h"
#include "engine/smtp/cmd.h"

#define EVERY_CUT_BYTES_MAX 600

/* ---- contents ---- */

#define TEXT "[^\x01-\x08\x0a-\x1f\x7f]*"

static struct grammar g_name = GRAMMAR("^[!-9;-~]+$");
static struct grammar g_value = GRAMMAR("^[^\r\n]*(\r?\n[ \t]+[^ \t\r\n][^\r\n]*)*$");
static struct grammar g_text = GRAMMAR("^" TEXT "$");
static struct grammar g_last_line = GRAMMAR("^[45][0-9][0-9]( " TEXT ")?$");
static struct grammar g_line = GRAMMAR("^[45][0-9][0-9]-" TEXT "$");

/* The strings of a payload; -1 when it does not end with one. */
static int split_strings(struct span s, struct span out[2])
{
	int count = 0;
	size_t from = 0;

	if (s.n > 0 && s.p[s.n - 1] != 0)
		return -1;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] != 0)
			continue;
		if (count < 2)
			out[count] = span_of(s.p + from, i - from);
		from = i + 1;
		count++;
	}
	return count;
}

static bool code_good(struct span raw)
{
	struct span line = raw;

	for (unsigned lines = 1; lines <= MILTER_LINES_MAX; lines++) {
		const uint8_t *cr = line.n > 0 ? memmem(line.p, line.n, "\r\n", 2) : NULL;
		struct span one = cr ? span_of(line.p, (size_t)(cr - line.p)) : line;

		if (one.n > 4 + MILTER_TEXT_BYTES_MAX)
			return false;
		if (!grammar_has(cr ? &g_line : &g_last_line, one))
			return false;
		if (memcmp(one.p, raw.p, 3) != 0)
			return false;
		if (!cr)
			return true;
		line = span_drop(line, one.n + 2);
	}
	return false;
}

static void check_code(const struct milter_packet *p, bool good, const struct milter_reply *r)
{
	struct span s[2], rest = r->code.raw;
	static uint8_t out[MILTER_TEXT_BYTES_MAX];
	struct milter_line line;
	unsigned lines = 0;

	ASSERT(good == (split_strings(p->payload, s) == 1 && code_good(s[0])));
	if (!good)
		return;
	ASSERT(lies_in(rest, p->payload) && r->code.code >= 400 && r->code.code <= 599);
	while (milter_line_next(&rest, &line)) {
		lines++;
		ASSERT(lies_in(line.text, r->code.raw) && lies_in(line.enhanced, r->code.raw));
		ASSERT(line.enhanced.n == 0 || line.enhanced.p[0] == '0' + r->code.code / 100);
		ASSERT(grammar_has(&g_text, line.text));
		ASSERT(milter_unescape(line.text, out, sizeof(out)) <= line.text.n);
	}
	ASSERT(lines == r->code.lines && rest.n == 0);
}

static void check_field(const struct milter_packet *p, bool good, const struct milter_reply *r)
{
	bool indexed = p->kind != MILTER_R_ADDHEADER, want;
	struct span s[2], strings = p->payload;
	uint32_t index = 0;

	if (indexed && strings.n < 4) {
		ASSERT(!good);
		return;
	}
	for (int i = 0; indexed && i < 4; i++)
		index = index << 8 | take_octet(&strings);
	want = split_strings(strings, s) == 2 && grammar_has(&g_name, s[0]) &&
	       grammar_has(&g_value, s[1]) && index < 0x80000000u;
	ASSERT(good == (want && (index > 0 || p->kind != MILTER_R_CHGHEADER)));
	if (!good)
		return;
	ASSERT(r->field.index == index);
	ASSERT(r->field.name.p == s[0].p && span_eq(r->field.name, s[0]));
	ASSERT(r->field.value.p == s[1].p && span_eq(r->field.value, s[1]));
}

static void check_address(const struct milter_packet *p, bool good, const struct milter_reply *r)
{
	bool is_rcpt = p->kind != MILTER_R_CHGFROM;
	bool with_params = !is_rcpt || p->kind == MILTER_R_ADDRCPT_PAR;
	struct span s[2];
	int n = split_strings(p->payload, s);
	char text[8192];
	struct smtp_path again;

	if (!good)
		return;
	ASSERT(n == 1 || (n == 2 && with_params));
	ASSERT(lies_in(r->address.mailbox, s[0]));
	ASSERT(r->address.null == (r->address.mailbox.n == 0));
	ASSERT(n == 1 ? r->address.params.n == 0 : span_eq(r->address.params, s[1]));
	n = snprintf(text, sizeof(text), "%s<%.*s> %.*s",
		is_rcpt ? "TO:" : "FROM:", (int)r->address.mailbox.n,
		(const char *)r->address.mailbox.p, (int)r->address.params.n,
		(const char *)r->address.params.p);
	ASSERT(n > 0 && (size_t)n < sizeof(text) && !strpbrk(text, "\r\n"));
	ASSERT(smtp_path_parse(span_of(text, (size_t)n), is_rcpt, &again) == PATH_OK);
	ASSERT(again.null == r->address.null && span_eq(again.mailbox, r->address.mailbox));
}

static void check_optneg(const struct milter_packet *p)
{
	struct milter_optneg o;
	enum milter_res res = milter_optneg_parse(p, &o);
	struct milter_reply r;

	ASSERT(milter_reply_parse(p, &r) == MILTER_UNEXPECTED);
	ASSERT(res == MILTER_OK || p->payload.n != 12);
	if (res != MILTER_OK)
		return;
	ASSERT(p->payload.n == 12 || (p->payload.n >= 17 && p->payload.p[p->payload.n - 1] == 0));
	for (int i = 0; i < MILTER_STAGE_COUNT; i++) {
		struct span rest = o.macros[i], name;

		ASSERT(lies_in(rest, p->payload) && grammar_has(&g_text, rest));
		while (milter_macro_next(&rest, &name))
			ASSERT(name.n > 0 && lies_in(name, o.macros[i]));
	}
}

static void check_packet(const struct milter_packet *p)
{
	struct milter_reply r;
	enum milter_res res;
	bool good;
	struct span s[2];

	if (p->kind == MILTER_R_OPTNEG) {
		check_optneg(p);
		return;
	}
	res = milter_reply_parse(p, &r);
	good = res == MILTER_OK;
	ASSERT(milter_res_text(res)[0] != 0 && (!good || (uint8_t)r.kind == p->kind));
	switch ((char)p->kind) {
	case 'y':
		check_code(p, good, &r);
		break;
	case '+':
	case '2':
	case '-':
	case 'e':
		check_address(p, good, &r);
		break;
	case 'h':
	case 'i':
	case 'm':
		check_field(p, good, &r);
		break;
	case 'b':
		ASSERT(good && r.body.p == p->payload.p && r.body.n == p->payload.n);
		break;
	case 'q':
		ASSERT(good == (split_strings(p->payload, s) == 1 && grammar_has(&g_text, s[0])));
		ASSERT(!good || r.reason.p == s[0].p);
		break;
	default:
		ASSERT(good == (p->payload.n == 0));
	}
}

/* ---- a stream ---- */

/* What comes of `in`, with a length that cannot overflow. */
static enum milter_res read_naively(struct span in, size_t max, size_t *used)
{
	uint64_t n = 0;

	*used = 0;
	for (size_t i = 0; i < 4; i++) {
		if (i == in.n)
			return MILTER_MORE;
		n = n * 256 + in.p[i];
	}
	if (n == 0)
		return MILTER_EMPTY;
	if (in.n == 4)
		return MILTER_MORE;
	if (in.p[4] == 0 || !strchr("Ocadrty4fsp+2-ehimbq", in.p[4]))
		return MILTER_BAD_COMMAND;
	if (n - 1 > max || (in.p[4] != 'b' && n - 1 > 65535))
		return MILTER_LONG;
	if (in.n < 4 + n)
		return MILTER_MORE;
	*used = 4 + n;
	return MILTER_OK;
}

static void check_stream(struct span in, size_t max)
{
	struct milter_packet p;
	enum milter_res res = MILTER_OK;

	while (res == MILTER_OK) {
		size_t used, want_used, most = MIN_OF(in.n, (size_t)EVERY_CUT_BYTES_MAX);

		for (size_t n = 0; n <= most; n++) {
			struct span part = span_of(in.p, n);

			res = milter_read(part, max, &p, &used);
			ASSERT(res == read_naively(part, max, &want_used) && used == want_used);
			if (res != MILTER_MORE)
				break;
		}
		ASSERT(milter_read(in, max, &p, &used) == res || res == MILTER_MORE);
		res = milter_read(in, max, &p, &used);
		ASSERT(res == read_naively(in, max, &want_used) && used == want_used);
		if (res != MILTER_OK)
			break;
		ASSERT(p.kind == in.p[4] && p.payload.p == in.p + 5 && p.payload.n == used - 5);
		check_packet(&p);
		in = span_drop(in, used);
	}
}

/* ---- building ---- */

/* `a` and `b` in packet number `which`; *strings that it ends with, -1: none of its own. */
static bool build(struct milter_out *o, unsigned which, struct span a, struct span b, int *strings)
{
	struct milter_neg neg = {6, 0, which & 16 ? MILTER_P_HDR_LEADSPC : 0};
	struct milter_macro macros[2] = {{a, b}, {b, a}};
	struct milter_offer offer = milter_offer_for((enum milter_mode)(which / 16 % 3));

	switch (which % 9) {
	case 0:
		*strings = 2;
		return milter_put_header(o, &neg, a, b);
	case 1:
		*strings = 4;
		return milter_put_macros(o, MILTER_C_RCPT, macros, 2);
	case 2:
		*strings = -1; /* as many as `b` has words */
		return milter_put_mail(o, a, b);
	case 3:
		*strings = -1;
		return milter_put_rcpt(o, a, b);
	case 4:
		*strings = 1;
		return milter_put_helo(o, a);
	case 5:
		*strings = 1;
		return milter_put_unknown(o, a);
	case 6:
		*strings = -1; /* the port may be NULs */
		return milter_put_connect_text(o, a, MILTER_F_IPV4, (uint16_t)a.n, b);
	case 7:
		*strings = -1;
		return milter_put_optneg(o, &offer);
	default:
		*strings = 0;
		return milter_put(o, MILTER_C_EOH);
	}
}

/* The header's value as it should go, taken from `value` octet by octet. */
static void check_value(struct span value, bool keep, struct span wire)
{
	size_t at = 0;

	for (size_t i = !keep && value.n > 0 && value.p[0] == ' '; i < value.n; i++) {
		if (value.p[i] == '\r' && i + 1 < value.n && value.p[i + 1] == '\n')
			continue;
		ASSERT(at < wire.n && wire.p[at++] == (value.p[i] ? value.p[i] : '?'));
	}
	ASSERT(at == wire.n);
}

static void check_built(struct span in, unsigned which)
{
	static uint8_t room[65536];
	size_t max = (size_t)take_octet(&in) * 3, cut = take_octet(&in);
	struct span a = span_of(in.p, MIN_OF(cut, in.n)), b = span_drop(in, a.n), s[2];
	struct milter_out o = {.p = room, .max = sizeof(room)}, small = {.max = max};
	int strings, count;
	bool fits;

	ASSERT(build(&o, which, a, b, &strings));
	ASSERT(o.n == o.need && o.n >= 5 && room[0] == 0 && room[1] == 0);
	ASSERT((size_t)room[2] * 256 + room[3] == o.n - 4 && milter_command_name(room[4]));
	count = split_strings(span_of(room + 5, o.n - 5), s);
	ASSERT(strings < 0 || count == strings);
	if (which % 9 == 0)
		check_value(b, which & 16, s[1]);

	small.p = malloc(max > 0 ? max : 1);
	ASSERT(small.p);
	fits = build(&small, which, a, b, &strings);
	ASSERT(fits == (o.n <= max) && small.need == o.n && small.n == (fits ? o.n : 0));
	ASSERT(!fits || memcmp(small.p, room, o.n) == 0);
	free(small.p);
}

/* ---- negotiation ---- */

static uint32_t take_u32(struct span *in)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++)
		v = v << 8 | take_octet(in);
	return v;
}

static void check_steps(const struct milter_neg *neg)
{
	static const char kinds[] = "Ocadrty4fsp+2-ehimbq";

	for (unsigned step = 0; step < MILTER_STEP_COUNT; step++) {
		ASSERT(milter_wants(neg, step) || !milter_replies(neg, step));
		for (const char *k = kinds; *k; k++) {
			enum milter_reply_kind kind = (enum milter_reply_kind) * k;
			enum milter_res res = milter_reply_check(neg, step, kind);

			ASSERT(res != MILTER_OK || milter_replies(neg, step));
			ASSERT(res != MILTER_NOT_AGREED || step == MILTER_AT_EOB);
		}
	}
	ASSERT(milter_replies(neg, MILTER_AT_EOB));
}

static void check_negotiation(struct span in, unsigned choice)
{
	struct milter_offer offer = milter_offer_for((enum milter_mode)(choice % 3));
	struct milter_optneg answer = {.version = take_octet(&in) % 9};
	struct milter_neg neg;
	uint32_t refused;
	bool good;

	answer.actions = take_u32(&in);
	answer.protocol = take_u32(&in);
	if (choice & 64)
		answer.actions &= offer.actions;
	if (choice & 128)
		answer.protocol &= offer.protocol;
	good = answer.version >= 2 && answer.version <= 6 &&
	       (answer.actions | offer.actions) == offer.actions &&
	       (answer.protocol | offer.protocol) == offer.protocol;
	ASSERT(good == (milter_negotiate(&offer, &answer, &neg, &refused) == MILTER_NEG_OK));
	ASSERT(!good || refused == 0);
	ASSERT(milter_action_name(refused) && milter_protocol_name(refused));
	if (good)
		check_steps(&neg);
}

/* ---- ---- */

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n);
	unsigned what = take_octet(&in) % 4, choice = take_octet(&in);
	struct span copy = exact_copy(in);

	if (what == 0) {
		check_stream(copy, choice == 255 ? SIZE_MAX : choice);
	} else if (what == 1) {
		if (copy.n > 0 && milter_reply_name(copy.p[0]))
			check_packet(&(struct milter_packet){copy.p[0], span_drop(copy, 1)});
	} else if (what == 2) {
		check_built(copy, choice);
	} else {
		check_negotiation(copy, choice);
	}
	exact_free(copy);
	return 0;
}
