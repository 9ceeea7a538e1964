/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The milter protocol's packets: see milter_wire.h. Nothing is kept between calls, so a result
 * depends on the octets alone.
 *
 * What a filter sends ends up in SMTP commands, replies and header fields. Therefore nothing that
 * could end one of those early leaves this file: addresses and parameters are read by the parser
 * that reads clients' commands, texts have no control octets, header values cannot end their field.
 *
 * Failure modes: a buffer that is too small is false; a filter's mistake is a typed result; a call
 * that makes no sense (a macro packet without a command, an empty body chunk) asserts.
 */
#include "engine/hook/milter/milter_wire.h"

#include "engine/hook/addr.h"
#include "engine/hook/edits.h"
#include "engine/smtp/cmd.h"
#include "engine/smtp/header.h"
#include "engine/smtp/line.h"
#include "engine/smtp/octets.h"
#include "engine/smtp/reply.h"
#include "ring/listen.h"

#include <sys/un.h>

#define INDEX_MAX 0x7fffffffu /* libmilter's is signed */

/* ---- tables ---- */

enum reply_when { NEVER, ANY, MESSAGE, BODY, END };

struct reply_row {
	uint8_t letter;
	uint8_t when;
	uint32_t action;
	const char *name;
};

static const struct reply_row reply_rows[] = {
#define X(id, letter, name, when, action) {letter, when, action, name},
	MILTER_REPLIES(X)
#undef X
};

struct step_row {
	uint32_t no, nr, since;
};

static const struct step_row step_rows[] = {
#define X(id, command, no, nr, since) {no, nr, since},
	MILTER_STEPS(X)
#undef X
};

static const struct reply_row *reply_row(uint8_t letter)
{
	for (size_t i = 0; i < ARRAY_LEN(reply_rows); i++)
		if (reply_rows[i].letter == letter)
			return &reply_rows[i];
	return NULL;
}

const char *milter_command_name(uint8_t letter)
{
	switch (letter) {
#define X(id, l, name) \
	case l:        \
		return name;
		MILTER_COMMANDS(X)
#undef X
	default:
		return NULL;
	}
}

const char *milter_reply_name(uint8_t letter)
{
	const struct reply_row *row = reply_row(letter);

	return row ? row->name : NULL;
}

const char *milter_res_text(enum milter_res r)
{
	static const char *const text[] = {
#define X(id, t) t,
		MILTER_RESULTS(X)
#undef X
	};

	ASSERT((unsigned)r < ARRAY_LEN(text));
	return text[r];
}

static const char *bit_name(uint32_t bits, const char *const *names, size_t count)
{
	size_t bit = bits ? (size_t)__builtin_ctz(bits) : count;

	return bit < count ? names[bit] : "unknown";
}

const char *milter_action_name(uint32_t bits)
{
	static const char *const names[] = {
#define X(id, bit, name) [bit] = name,
		MILTER_ACTIONS(X)
#undef X
	};

	return bit_name(bits, names, ARRAY_LEN(names));
}

const char *milter_protocol_name(uint32_t bits)
{
	static const char *const names[] = {
#define X(id, bit, name) [bit] = name,
		MILTER_PROTOCOLS(X)
#undef X
	};

	return bit_name(bits, names, ARRAY_LEN(names));
}

/* ---- what is agreed on ---- */

struct milter_offer milter_offer_for(enum milter_mode mode)
{
	uint32_t all = 0;
	struct milter_offer offer = {.version = MILTER_VERSION, .actions = MILTER_A_SETSYMLIST};

#define X(id, bit, name) offer.protocol |= id;
	MILTER_PROTOCOLS(X)
#undef X
#define X(id, bit, name) all |= id;
	MILTER_ACTIONS(X)
#undef X
	offer.protocol &= ~(uint32_t)MILTER_P_RCPT_REJ;
	if (mode == MILTER_HOLD_END)
		offer.actions |= MILTER_A_QUARANTINE;
	else if (mode == MILTER_HOLD_ALL)
		offer.actions = all;
	else
		ASSERT(mode == MILTER_STREAM);
	return offer;
}

enum milter_neg_res milter_negotiate(const struct milter_offer *offer,
	const struct milter_optneg *answer, struct milter_neg *out, uint32_t *refused)
{
	uint32_t actions = answer->actions & ~offer->actions;
	uint32_t protocol = answer->protocol & ~offer->protocol;

	*refused = 0;
	if (answer->version < MILTER_VERSION_MIN)
		return MILTER_NEG_OLD;
	if (answer->version > offer->version)
		return MILTER_NEG_NEW;
	if (actions) {
		*refused = actions;
		return MILTER_NEG_ACTION;
	}
	if (protocol) {
		*refused = protocol;
		return MILTER_NEG_PROTOCOL;
	}
	*out = (struct milter_neg){
		.version = answer->version,
		.actions = answer->actions,
		.protocol = answer->protocol,
	};
	return MILTER_NEG_OK;
}

bool milter_wants(const struct milter_neg *neg, enum milter_step step)
{
	ASSERT((unsigned)step < ARRAY_LEN(step_rows));
	return neg->version >= step_rows[step].since && !(neg->protocol & step_rows[step].no);
}

bool milter_replies(const struct milter_neg *neg, enum milter_step step)
{
	return milter_wants(neg, step) && !(neg->protocol & step_rows[step].nr);
}

static bool comes_to(enum reply_when when, const struct milter_neg *neg, enum milter_step step)
{
	switch (when) {
	case ANY:
		return true;
	case MESSAGE:
		return step >= MILTER_AT_MAIL && step <= MILTER_AT_EOB;
	case BODY:
		return step == MILTER_AT_BODY && milter_skips(neg);
	case END:
		return step == MILTER_AT_EOB;
	default:
		return false;
	}
}

enum milter_res milter_reply_check(
	const struct milter_neg *neg, enum milter_step step, enum milter_reply_kind kind)
{
	const struct reply_row *row = reply_row((uint8_t)kind);

	ASSERT(row);
	if (!milter_replies(neg, step) || !comes_to(row->when, neg, step))
		return MILTER_UNEXPECTED;
	return row->action & ~neg->actions ? MILTER_NOT_AGREED : MILTER_OK;
}

bool milter_reply_final(enum milter_reply_kind kind)
{
	const struct reply_row *row = reply_row((uint8_t)kind);

	ASSERT(row);
	return row->when != NEVER && row->when != END && kind != MILTER_R_PROGRESS;
}

/* ---- writing ----
 * `need` counts what the packet takes, whether it fits or not; only what fits is written. */

static void put_octet(struct milter_out *o, uint8_t c)
{
	if (o->need < o->max - o->n)
		o->p[o->n + o->need] = c;
	o->need++;
}

static void put_u32(struct milter_out *o, uint32_t v)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		put_octet(o, (uint8_t)(v >> shift));
}

static void put_octets(struct milter_out *o, struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		put_octet(o, s.p[i] ? s.p[i] : '?');
}

static void put_string(struct milter_out *o, struct span s)
{
	put_octets(o, s);
	put_octet(o, 0);
}

/* The length comes last: put_end knows it. */
static void put_start(struct milter_out *o, uint8_t cmd)
{
	ASSERT(o->n <= o->max);
	o->need = 0;
	put_u32(o, 0);
	put_octet(o, cmd);
}

/* `behind`: octets of payload that are sent from elsewhere. */
static bool put_end(struct milter_out *o, size_t behind)
{
	size_t follows = o->need - MILTER_HEAD_BYTES + 1 + behind;

	if (o->need > o->max - o->n || follows > 1 + MILTER_DATA_BYTES_MAX)
		return false;
	for (size_t i = 0; i < 4; i++)
		o->p[o->n + i] = (uint8_t)(follows >> (24 - 8 * i));
	o->n += o->need;
	return true;
}

bool milter_put(struct milter_out *o, enum milter_command cmd)
{
	ASSERT(cmd == MILTER_C_DATA || cmd == MILTER_C_EOH || cmd == MILTER_C_EOB ||
		cmd == MILTER_C_ABORT || cmd == MILTER_C_QUIT || cmd == MILTER_C_QUIT_NC);
	put_start(o, (uint8_t)cmd);
	return put_end(o, 0);
}

bool milter_put_optneg(struct milter_out *o, const struct milter_offer *offer)
{
	put_start(o, MILTER_C_OPTNEG);
	put_u32(o, offer->version);
	put_u32(o, offer->actions);
	put_u32(o, offer->protocol);
	return put_end(o, 0);
}

bool milter_put_macros(struct milter_out *o, enum milter_command cmd,
	const struct milter_macro *macros, size_t count)
{
	ASSERT(milter_command_name((uint8_t)cmd) && cmd != MILTER_C_MACRO);
	put_start(o, MILTER_C_MACRO);
	put_octet(o, (uint8_t)cmd);
	for (size_t i = 0; i < count; i++) {
		put_string(o, macros[i].name);
		put_string(o, macros[i].value);
	}
	return put_end(o, 0);
}

bool milter_put_connect_text(struct milter_out *o, struct span host, enum milter_family family,
	uint16_t port, struct span address)
{
	put_start(o, MILTER_C_CONNECT);
	put_string(o, host);
	put_octet(o, (uint8_t)family);
	if (family != MILTER_F_UNKNOWN) {
		put_octet(o, (uint8_t)(port >> 8));
		put_octet(o, (uint8_t)port);
		put_string(o, address);
	}
	return put_end(o, 0);
}

static bool put_unix(struct milter_out *o, struct span host, const struct ring_addr *client)
{
	struct sockaddr_un un;
	size_t head = offsetof(struct sockaddr_un, sun_path);
	size_t len = MIN_OF((size_t)client->len, sizeof(un));
	size_t n = len > head ? len - head : 0;

	memcpy(&un, &client->ss, sizeof(un));
	if (n > 0 && un.sun_path[0]) /* a file's name ends with a NUL, an abstract one anywhere */
		n = strnlen(un.sun_path, n);
	return milter_put_connect_text(
		o, host, n > 0 ? MILTER_F_UNIX : MILTER_F_UNKNOWN, 0, span_of(un.sun_path, n));
}

bool milter_put_connect(struct milter_out *o, struct span host, const struct ring_addr *client)
{
	char text[HOOK_ADDR_BYTES];
	struct span address = span_of(text, hook_addr_text(client, text));
	enum milter_family family = MILTER_F_UNKNOWN;

	if (client->len > 0 && client->ss.ss_family == AF_UNIX)
		return put_unix(o, host, client);
	if (address.n == 0)
		return milter_put_connect_text(o, host, family, 0, SPAN_NONE);
	family = memchr(text, ':', address.n) ? MILTER_F_IPV6 : MILTER_F_IPV4;
	return milter_put_connect_text(o, host, family, addr_port(client), address);
}

static bool put_one(struct milter_out *o, enum milter_command cmd, struct span s)
{
	put_start(o, (uint8_t)cmd);
	put_string(o, s);
	return put_end(o, 0);
}

bool milter_put_helo(struct milter_out *o, struct span name)
{
	return put_one(o, MILTER_C_HELO, name);
}

bool milter_put_unknown(struct milter_out *o, struct span line)
{
	return put_one(o, MILTER_C_UNKNOWN, line);
}

static bool put_envelope(
	struct milter_out *o, enum milter_command cmd, struct span mailbox, struct span params)
{
	struct span word;

	put_start(o, (uint8_t)cmd);
	put_octet(o, '<');
	put_octets(o, mailbox);
	put_octet(o, '>');
	put_octet(o, 0);
	while ((word = span_take_word(&params)).n > 0)
		put_string(o, word);
	return put_end(o, 0);
}

bool milter_put_mail(struct milter_out *o, struct span mailbox, struct span params)
{
	return put_envelope(o, MILTER_C_MAIL, mailbox, params);
}

bool milter_put_rcpt(struct milter_out *o, struct span mailbox, struct span params)
{
	return put_envelope(o, MILTER_C_RCPT, mailbox, params);
}

bool milter_put_header(
	struct milter_out *o, const struct milter_neg *neg, struct span name, struct span value)
{
	if (!milter_keeps_space(neg) && value.n > 0 && value.p[0] == ' ')
		value = span_drop(value, 1);
	put_start(o, MILTER_C_HEADER);
	put_string(o, name);
	for (size_t i = 0; i < value.n; i++) {
		bool crlf = value.p[i] == '\r' && i + 1 < value.n && value.p[i + 1] == '\n';

		if (!crlf)
			put_octets(o, span_of(value.p + i, 1));
	}
	put_octet(o, 0);
	return put_end(o, 0);
}

bool milter_put_body_head(struct milter_out *o, size_t octets)
{
	ASSERT(octets > 0 && octets <= MILTER_DATA_BYTES_MAX);
	put_start(o, MILTER_C_BODY);
	return put_end(o, octets);
}

/* ---- reading ---- */

static uint32_t get_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool take_u32(struct span *rest, uint32_t *out)
{
	if (rest->n < 4)
		return false;
	*out = get_u32(rest->p);
	*rest = span_drop(*rest, 4);
	return true;
}

/* False: there is no NUL. */
static bool take_string(struct span *rest, struct span *out)
{
	const uint8_t *nul = rest->n > 0 ? memchr(rest->p, 0, rest->n) : NULL;

	if (!nul)
		return false;
	*out = span_of(rest->p, (size_t)(nul - rest->p));
	*rest = span_drop(*rest, out->n + 1);
	return true;
}

/* The last one of a payload. */
static enum milter_res take_last(struct span rest, struct span *out)
{
	if (!take_string(&rest, out))
		return MILTER_NO_NUL;
	return rest.n > 0 ? MILTER_TRAILING : MILTER_OK;
}

/* The length is judged only behind the command: what may be long depends on it. */
enum milter_res milter_read(struct span in, size_t max, struct milter_packet *out, size_t *used)
{
	uint32_t follows;

	*used = 0;
	if (in.n < 4)
		return MILTER_MORE;
	follows = get_u32(in.p);
	if (follows == 0)
		return MILTER_EMPTY;
	if (in.n < MILTER_HEAD_BYTES)
		return MILTER_MORE;
	if (!reply_row(in.p[4]))
		return MILTER_BAD_COMMAND;
	if (in.p[4] != MILTER_R_REPLBODY)
		max = MIN_OF(max, (size_t)MILTER_DATA_BYTES_MAX);
	if (follows - 1 > max)
		return MILTER_LONG;
	if (in.n - 4 < follows)
		return MILTER_MORE;
	*used = 4 + (size_t)follows;
	*out = (struct milter_packet){
		.kind = in.p[4],
		.payload = span_of(in.p + MILTER_HEAD_BYTES, follows - 1),
	};
	return MILTER_OK;
}

/* ---- texts ---- */

enum milter_res milter_optneg_parse(const struct milter_packet *packet, struct milter_optneg *out)
{
	struct milter_optneg o = {0};
	struct span rest = packet->payload, list;
	uint32_t stage;

	if (packet->kind != MILTER_R_OPTNEG)
		return MILTER_UNEXPECTED;
	if (!take_u32(&rest, &o.version) || !take_u32(&rest, &o.actions) ||
		!take_u32(&rest, &o.protocol))
		return MILTER_SHORT;
	while (rest.n > 0) {
		if (!take_u32(&rest, &stage))
			return MILTER_SHORT;
		if (!take_string(&rest, &list))
			return MILTER_NO_NUL;
		if (!smtp_line_clean(list))
			return MILTER_BAD_OCTET;
		if (stage < MILTER_STAGE_COUNT)
			o.macros[stage] = list;
	}
	*out = o;
	return MILTER_OK;
}

static bool divides_macros(uint8_t c)
{
	return c == ',' || octet_is(c, OCTET_BLANK);
}

bool milter_macro_next(struct span *rest, struct span *name)
{
	size_t n = 0;

	while (rest->n > 0 && divides_macros(rest->p[0]))
		*rest = span_drop(*rest, 1);
	while (n < rest->n && !divides_macros(rest->p[n]))
		n++;
	*name = span_of(rest->p, n);
	*rest = span_drop(*rest, n);
	return n > 0;
}

/* The octets up to the next CRLF, or all; *more when there was one. */
static struct span take_line(struct span *rest, bool *more)
{
	struct span line = *rest;
	const uint8_t *end = line.n > 0 ? memmem(line.p, line.n, "\r\n", 2) : NULL;

	*more = end != NULL;
	if (end)
		line.n = (size_t)(end - line.p);
	*rest = span_drop(*rest, line.n + (end ? 2 : 0));
	return line;
}

/* 0: not a code that refuses. */
static uint16_t line_code(struct span line)
{
	if (line.n < 3 || (line.p[0] != '4' && line.p[0] != '5'))
		return 0;
	for (size_t i = 1; i < 3; i++)
		if (line.p[i] < '0' || line.p[i] > '9')
			return 0;
	return (uint16_t)((line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + (line.p[2] - '0'));
}

/* What is behind "ddd-" or "ddd ". */
static struct span line_rest(struct span line)
{
	return span_drop(line, MIN_OF(line.n, (size_t)4));
}

static enum milter_res line_check(struct span line, uint16_t code, bool more)
{
	uint16_t own = line_code(line);

	if (own == 0)
		return MILTER_BAD_CODE;
	if (own != code)
		return MILTER_MIXED_CODES;
	if (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-')
		return MILTER_BAD_CODE;
	if (more != (line.n > 3 && line.p[3] == '-'))
		return MILTER_BAD_LINES;
	if (line_rest(line).n > MILTER_TEXT_BYTES_MAX)
		return MILTER_LONG_LINE;
	return smtp_line_clean(line) ? MILTER_OK : MILTER_BAD_OCTET;
}

static enum milter_res code_parse(struct span payload, struct milter_code *out)
{
	struct milter_code c = {0};
	enum milter_res res = take_last(payload, &c.raw);
	struct span rest = c.raw;

	c.code = line_code(c.raw);
	for (bool more = true; res == MILTER_OK && more; c.lines++) {
		struct span line = take_line(&rest, &more);

		res = c.lines == MILTER_LINES_MAX ? MILTER_BAD_LINES
						  : line_check(line, c.code, more);
	}
	*out = c;
	return res;
}

bool milter_line_next(struct span *rest, struct milter_line *out)
{
	struct span line, text;
	size_t n;
	bool more;

	if (rest->n == 0)
		return false;
	line = take_line(rest, &more);
	text = line_rest(line);
	n = smtp_enhanced_len(text);
	if (n > 0 && text.p[0] != line.p[0])
		n = 0;
	out->enhanced = span_of(text.p, n);
	out->text = span_drop(text, n > 0 && n < text.n ? n + 1 : n);
	return true;
}

size_t milter_unescape(struct span text, uint8_t *out, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < text.n; i++) {
		if (n < max)
			out[n] = text.p[i];
		n++;
		if (text.p[i] == '%' && i + 1 < text.n && text.p[i + 1] == '%')
			i++;
	}
	return n;
}

/* ---- changes ---- */

/* Whether "TO:address params" is what the parser of clients' commands takes. A copy, as that one
 * wants it in one piece; *at is where the address starts in it. */
static enum path_res path_read(struct span address, struct span params, bool is_rcpt, uint8_t *line,
	size_t *at, struct smtp_path *out)
{
	struct span keyword = is_rcpt ? SPAN_LIT("TO:") : SPAN_LIT("FROM:");
	size_t n = keyword.n;

	*at = n;
	/* Each by itself: the sum cannot wrap round. */
	if (address.n > SMTP_COMMAND_BYTES_MAX || params.n > SMTP_COMMAND_BYTES_MAX ||
		n + address.n + 1 + params.n > SMTP_COMMAND_BYTES_MAX)
		return PATH_TOO_LONG;
	memcpy(line, keyword.p, n);
	if (address.n > 0)
		memcpy(line + n, address.p, address.n);
	n += address.n;
	line[n++] = ' ';
	if (params.n > 0)
		memcpy(line + n, params.p, params.n);
	return smtp_path_parse(span_of(line, n + params.n), is_rcpt, out);
}

static enum milter_res address_read(
	struct span address, struct span params, bool is_rcpt, struct milter_address *out)
{
	uint8_t line[SMTP_COMMAND_BYTES_MAX];
	struct smtp_mail_params values;
	struct smtp_path path;
	struct span bad;
	size_t at;

	/* Alone first: "<a@b> SIZE=1" is no address. */
	if (path_read(address, SPAN_NONE, is_rcpt, line, &at, &path) != PATH_OK ||
		path.params.n > 0)
		return MILTER_BAD_ADDRESS;
	*out = (struct milter_address){.null = path.null, .params = params};
	if (!path.null)
		out->mailbox = span_of(address.p + (path.mailbox.p - (line + at)), path.mailbox.n);
	if (path_read(address, params, is_rcpt, line, &at, &path) != PATH_OK)
		return MILTER_BAD_PARAM;
	if (!(is_rcpt ? smtp_rcpt_params(path.params, &bad)
		      : smtp_mail_params(path.params, &values, &bad)))
		return MILTER_BAD_PARAM;
	return MILTER_OK;
}

/* `with_params`: a second string may follow (libmilter leaves it out when there is nothing in it).
 */
static enum milter_res address_parse(
	struct span payload, bool is_rcpt, bool with_params, struct milter_address *out)
{
	struct span address, params = SPAN_NONE;
	enum milter_res res;

	if (!take_string(&payload, &address))
		return MILTER_NO_NUL;
	if (payload.n > 0) {
		if (!with_params)
			return MILTER_TRAILING;
		res = take_last(payload, &params);
		if (res != MILTER_OK)
			return res;
	}
	return address_read(address, params, is_rcpt, out);
}

/* `from`: the least index there may be; without one, `indexed` is false. */
static enum milter_res field_parse(
	struct span payload, bool indexed, uint32_t from, struct milter_field *out)
{
	struct milter_field f = {0};
	enum milter_res res;
	size_t n;

	if (indexed && !take_u32(&payload, &f.index))
		return MILTER_SHORT;
	if (!take_string(&payload, &f.name))
		return MILTER_NO_NUL;
	res = take_last(payload, &f.value);
	if (res != MILTER_OK)
		return res;
	if (indexed && (f.index < from || f.index > INDEX_MAX))
		return MILTER_BAD_INDEX;
	if (!header_name_valid(f.name))
		return MILTER_BAD_NAME;
	if (!hook_edits_value_valid(f.value, &n))
		return MILTER_BAD_VALUE;
	*out = f;
	return MILTER_OK;
}

static enum milter_res reason_parse(struct span payload, struct span *out)
{
	enum milter_res res = take_last(payload, out);

	if (res != MILTER_OK)
		return res;
	return smtp_line_clean(*out) ? MILTER_OK : MILTER_BAD_OCTET;
}

static enum milter_res contents_parse(const struct milter_packet *packet, struct milter_reply *r)
{
	struct span payload = packet->payload;

	switch (r->kind) {
	case MILTER_R_OPTNEG:
		return MILTER_UNEXPECTED;
	case MILTER_R_CODE:
		return code_parse(payload, &r->code);
	case MILTER_R_ADDRCPT:
	case MILTER_R_DELRCPT:
		return address_parse(payload, true, false, &r->address);
	case MILTER_R_ADDRCPT_PAR:
		return address_parse(payload, true, true, &r->address);
	case MILTER_R_CHGFROM:
		return address_parse(payload, false, true, &r->address);
	case MILTER_R_ADDHEADER:
		return field_parse(payload, false, 0, &r->field);
	case MILTER_R_INSHEADER:
		return field_parse(payload, true, 0, &r->field);
	case MILTER_R_CHGHEADER:
		return field_parse(payload, true, 1, &r->field);
	case MILTER_R_REPLBODY:
		r->body = payload;
		return MILTER_OK;
	case MILTER_R_QUARANTINE:
		return reason_parse(payload, &r->reason);
	default:
		return payload.n > 0 ? MILTER_TRAILING : MILTER_OK;
	}
}

enum milter_res milter_reply_parse(const struct milter_packet *packet, struct milter_reply *out)
{
	struct milter_reply r = {.kind = (enum milter_reply_kind)packet->kind};
	enum milter_res res;

	ASSERT(reply_row(packet->kind));
	res = contents_parse(packet, &r);
	if (res == MILTER_OK)
		*out = r;
	return res;
}
