/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See content.h. RFC 5321 4.5.2 (transparency), 4.5.3.1.6 (line length: the made-up lines have 76
 * columns).
 */
#include "bench/lib/content.h"

#include <inttypes.h>

#define LINE_COLUMNS 76
#define HASH_PRIME 0x100000001b3ull

const char *const content_check_words[] = {"none", "ok", "bad"};

uint64_t hash_more(uint64_t h, struct span data)
{
	for (size_t i = 0; i < data.n; i++)
		h = (h ^ data.p[i]) * HASH_PRIME;
	return h;
}

void hash_both(uint64_t *a, uint64_t *b, struct span data)
{
	uint64_t h = *a, k = *b;

	for (size_t i = 0; i < data.n; i++) {
		h = (h ^ data.p[i]) * HASH_PRIME;
		k = (k ^ data.p[i]) * HASH_PRIME;
	}
	*a = h;
	*b = k;
}

void hash_end_init(struct hash_end *e, struct span data)
{
	uint64_t p = HASH_PRIME;

	memset(e, 0, sizeof(*e));
	e->data = data;
	e->power = 1;
	for (size_t n = data.n; n; n >>= 1, p *= p)
		if (n & 1)
			e->power *= p;
}

/* An octet is xored into the lowest octet of h, and a product carries upwards only: what the data
 * adds to h * power follows from the data and the lowest octet of h, nothing else. */
uint64_t hash_end_more(struct hash_end *e, uint64_t h)
{
	uint8_t low = (uint8_t)h;

	if (!e->known[low]) {
		e->add[low] = hash_more(h, e->data) - h * e->power;
		e->known[low] = true;
	}
	return h * e->power + e->add[low];
}

/* ---- off the wire ---- */

enum unstuff_state {
	AT_LINE_START, /* also at the very start */
	IN_LINE,
	AFTER_CR,
	AFTER_DOT,    /* a dot at a line start, taken out */
	AFTER_DOT_CR, /* and a CR, held back: it may be the end's */
	AT_END,
};

/* One octet; true: it belongs to the content. *cr: a held CR does too, before it. */
static bool unstuff_octet(struct unstuff *u, uint8_t c, bool *cr)
{
	*cr = false;
	switch (u->state) {
	case AT_LINE_START:
		u->state = c == '.' ? AFTER_DOT : c == '\r' ? AFTER_CR : IN_LINE;
		return c != '.';
	case AFTER_CR:
		u->state = c == '\n' ? AT_LINE_START : c == '\r' ? AFTER_CR : IN_LINE;
		return true;
	case AFTER_DOT:
		u->state = c == '\r' ? AFTER_DOT_CR : IN_LINE;
		return c != '\r';
	case AFTER_DOT_CR:
		if (c == '\n') {
			u->state = AT_END;
			return false;
		}
		*cr = true;
		u->state = c == '\r' ? AFTER_CR : IN_LINE;
		return true;
	case AT_END:
		return false;
	default:
		u->state = c == '\r' ? AFTER_CR : IN_LINE;
		return true;
	}
}

void unstuff_feed(struct unstuff *u, struct span in, content_sink *emit, void *arg)
{
	size_t run = 0, i = 0;

	while (i < in.n) {
		if (u->state == IN_LINE) {
			const uint8_t *cr = memchr(in.p + i, '\r', in.n - i);

			if (!cr)
				break;
			i = (size_t)(cr - in.p);
		}
		bool held;
		bool keep = unstuff_octet(u, in.p[i], &held);
		if (held)
			emit(arg, SPAN_LIT("\r"));
		if (!keep) {
			if (i > run)
				emit(arg, span_of(in.p + run, i - run));
			run = i + 1;
		}
		i++;
	}
	if (in.n > run)
		emit(arg, span_of(in.p + run, in.n - run));
}

/* ---- reading ---- */

void content_init(struct content *c, bool whole, bool check)
{
	memset(c, 0, sizeof(*c));
	c->hash_all = c->hash_body = HASH_START;
	c->whole = whole;
	c->check = check;
}

static bool header_value(struct span line, struct span name, struct span *value)
{
	if (line.n < name.n || !span_ieq(span_of(line.p, name.n), name))
		return false;
	*value = span_drop(line, name.n);
	while (value->n && *value->p == ' ')
		*value = span_drop(*value, 1);
	return true;
}

/* A finished header line, its CRLF included. */
static void header_line(struct content *c)
{
	struct span line = span_of(c->line, c->line_len), value;

	while (line.n && (line.p[line.n - 1] == '\n' || line.p[line.n - 1] == '\r'))
		line.n--;
	if (line.n == 0) {
		c->in_body = true;
	} else if (c->line_cut) {
		return;
	} else if (header_value(line, SPAN_LIT("X-Ringpost-Id:"), &value)) {
		size_t n = MIN_OF(value.n, sizeof(c->id) - 1);
		memcpy(c->id, value.p, n);
		c->id[n] = '\0';
	} else if (header_value(line, SPAN_LIT("X-Ringpost-Hash:"), &value) && value.n == 16) {
		char hex[17] = {0};

		memcpy(hex, value.p, 16);
		c->hash_want = strtoull(hex, NULL, 16);
		c->has_want = c->check;
	}
}

static size_t header_feed(struct content *c, struct span in)
{
	const uint8_t *lf = memchr(in.p, '\n', in.n);
	size_t n = lf ? (size_t)(lf - in.p) + 1 : in.n;
	size_t keep = MIN_OF(n, sizeof(c->line) - c->line_len);

	memcpy(c->line + c->line_len, in.p, keep);
	c->line_len = (uint8_t)(c->line_len + keep);
	c->line_cut = c->line_cut || keep < n;
	if (lf) {
		header_line(c);
		c->line_len = 0;
		c->line_cut = false;
	}
	return n;
}

void content_feed(struct content *c, struct span piece)
{
	size_t head = 0;

	c->bytes += piece.n;
	while (head < piece.n && !c->in_body)
		head += header_feed(c, span_drop(piece, head));
	struct span body = span_drop(piece, head);
	if (c->whole)
		c->hash_all = hash_more(c->hash_all, span_of(piece.p, head));
	if (c->whole && c->has_want)
		hash_both(&c->hash_all, &c->hash_body, body);
	else if (c->whole)
		c->hash_all = hash_more(c->hash_all, body);
	else if (c->has_want)
		c->hash_body = hash_more(c->hash_body, body);
}

enum content_check content_verdict(const struct content *c)
{
	if (!c->has_want)
		return CHECK_NONE;
	return c->hash_body == c->hash_want ? CHECK_OK : CHECK_BAD;
}

/* ---- making ---- */

static const char plain_head[] = "From: Blast <sender@blast.example>\r\n"
				 "To: Sink <rcpt@sink.example>\r\n"
				 "Subject: a message of the load generator\r\n"
				 "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
				 "Message-ID: <load@blast.example>\r\n"
				 "MIME-Version: 1.0\r\n"
				 "Content-Type: text/plain; charset=us-ascii\r\n"
				 "\r\n";

#define CHECK_HEAD_FORMAT                                          \
	"X-Ringpost-Id: %s\r\nX-Ringpost-Hash: %016" PRIx64 "\r\n" \
	"From: Blast <sender@blast.example>\r\nSubject: message %s\r\n\r\n"
#define CHECK_FIRST_LINE "This is message %s.\r\n"

void maker_id(const struct maker *m, uint64_t number, char out[CONTENT_ID_BYTES])
{
	snprintf(out, CONTENT_ID_BYTES, "%s-%010" PRIu64, m->run, number);
}

size_t maker_head(struct maker *m, uint64_t number, char *out)
{
	char id[CONTENT_ID_BYTES], first[CONTENT_ID_BYTES + 32];

	maker_id(m, number, id);
	int n = snprintf(first, sizeof(first), CHECK_FIRST_LINE, id);
	uint64_t h = hash_more(HASH_START, span_of(first, (size_t)n));
	h = hash_end_more(&m->end, h);
	n = snprintf(out, MAKER_HEAD_BYTES, CHECK_HEAD_FORMAT "%s", id, h, id, first);
	return (size_t)n;
}

/* One line of n >= 2 octets, CRLF included; every 40th or so starts with a dot, some are only dots.
 */
static void fill_line(uint8_t *p, size_t n, uint64_t *seed)
{
	static const char text[] =
		"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789";

	for (size_t i = 0; i + 2 < n; i++) {
		*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
		p[i] = (uint8_t)text[(*seed >> 33) % (sizeof(text) - 1)];
	}
	if (n > 2 && (*seed >> 40) % 40 == 0)
		p[0] = '.';
	p[n - 2] = '\r';
	p[n - 1] = '\n';
}

/* Fills p[0..size) with lines; size is 0 or at least 2, and no rest of a single octet is left over.
 */
static void fill_lines(uint8_t *p, size_t size)
{
	uint64_t seed = 20260101;
	unsigned line = 0;

	while (size) {
		size_t n = ++line % 97 == 0 ? 3 + line % 2 : LINE_COLUMNS + 2;

		if (n >= size)
			n = size;
		else if (size - n == 1)
			n -= 1;
		fill_line(p, n, &seed);
		if (line % 97 == 0)
			memset(p, '.', n - 2);
		p += n;
		size -= n;
	}
}

/* Dot-stuffs raw into wire (room for twice the octets + 3) and ends it. */
static size_t stuff(const uint8_t *raw, size_t n, uint8_t *wire)
{
	size_t w = 0;

	for (size_t i = 0; i < n; i++) {
		if (raw[i] == '.' && (i == 0 || raw[i - 1] == '\n'))
			wire[w++] = '.';
		wire[w++] = raw[i];
	}
	memcpy(wire + w, ".\r\n", 3);
	return w + 3;
}

/* Octets of the wire form of lines made by fill_lines(): at most every third octet is a line start.
 */
static size_t wire_bound(size_t n)
{
	return n + n / 3 + 8;
}

bool maker_init(struct maker *m, size_t size, bool checked, const char *run)
{
	char head[MAKER_HEAD_BYTES];
	size_t fixed = 0;

	memset(m, 0, sizeof(*m));
	snprintf(m->run, sizeof(m->run), "%s", run);
	if (checked)
		m->head_len = maker_head(m, 0, head);
	size = size > m->head_len ? size - m->head_len : 0;
	if (size == 1)
		size = 2;
	m->raw = malloc(size + 1);
	m->wire = malloc(wire_bound(size));
	if (!m->raw || !m->wire) {
		maker_fini(m);
		return false;
	}
	if (!checked && size >= sizeof(plain_head) - 1 + 2) {
		fixed = sizeof(plain_head) - 1;
		memcpy(m->raw, plain_head, fixed);
	}
	fill_lines(m->raw + fixed, size - fixed);
	m->raw_len = size;
	hash_end_init(&m->end, span_of(m->raw, size));
	m->wire_len = stuff(m->raw, size, m->wire);
	return true;
}

void maker_fini(struct maker *m)
{
	free(m->raw);
	free(m->wire);
	m->raw = m->wire = NULL;
}

/* ---- templates ---- */

bool template_expand(const char *text, uint64_t message, uint64_t recipient, uint64_t connection,
	char *out, size_t max)
{
	size_t n = 0;

	for (; *text; text++) {
		int put;

		if (n + 1 >= max)
			return false;
		if (*text != '%') {
			out[n++] = *text;
			continue;
		}
		switch (*++text) {
		case 'm':
			put = snprintf(out + n, max - n, "%" PRIu64, message);
			break;
		case 'r':
			put = snprintf(out + n, max - n, "%" PRIu64, recipient);
			break;
		case 'c':
			put = snprintf(out + n, max - n, "%" PRIu64, connection);
			break;
		case '%':
			put = snprintf(out + n, max - n, "%%");
			break;
		default:
			return false;
		}
		if (put < 0 || (size_t)put >= max - n)
			return false;
		n += (size_t)put;
	}
	out[n] = '\0';
	return true;
}

bool template_varies(const char *text)
{
	for (const char *p = strchr(text, '%'); p && p[1]; p = strchr(p + 2, '%'))
		if (p[1] == 'm' || p[1] == 'c')
			return true;
	return false;
}
