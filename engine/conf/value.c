/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Typed values: for each type a setter (text to field, bounds checked) and its inverse (field to
 * the text that sets it again). A setter reports what is wrong at the value's place and returns
 * false; the field then keeps whatever it had.
 */
#include "engine/conf/conf_int.h"

#include <pwd.h>
#include <sched.h>
#include <unistd.h>

bool one_value(struct loader *l, const struct key *k, const struct node *n)
{
	if (n->bad)
		return false;
	if (n->kind != NODE_SCALAR)
		return fail_at(l, n, "`%s` takes one value, not a %s", k->name,
			n->kind == NODE_LIST ? "list" : "mapping");
	if (n->len == 0 || node_null(n))
		return fail_at(l, n, "`%s` has no value", k->name);
	return true;
}

bool many_values(struct loader *l, const struct key *k, const struct node *n, struct values *out)
{
	bool good = true;

	*out = (struct values){NULL, 0};
	if (n->kind == NODE_MAP)
		return fail_at(
			l, n, "`%s` takes a value or a list of values, not a mapping", k->name);
	out->v = arena_alloc(l->tmp, (n->count + 1) * sizeof(out->v[0]));
	if (n->kind == NODE_SCALAR && !node_null(n))
		out->v[out->count++] = n;
	for (const struct item *i = n->first; i != NULL; i = i->next)
		out->v[out->count++] = i->value;
	if (out->count < k->min)
		return fail_at(l, n, "`%s` has no value", k->name);
	if (out->count > k->max)
		return fail_at(l, n, "`%s` has %u values, %lu at most are allowed", k->name,
			out->count, (unsigned long)k->max);
	for (uint32_t i = 0; i < out->count; i++)
		good &= one_value(l, k, out->v[i]);
	return good;
}

static bool malformed(struct loader *l, const struct key *k, const struct node *n)
{
	return fail_at(l, n, "`%s` cannot be `%s`: write %s", k->name, n->shown,
		conf_types[k->type].written);
}

static void store(const struct key *k, void *base, uint64_t v)
{
	void *p = field(k, base);

	switch (k->width) {
	case 0:
		return;
	case 1:
		*(uint8_t *)p = (uint8_t)v;
		return;
	case 2:
		*(uint16_t *)p = (uint16_t)v;
		return;
	case 4:
		*(uint32_t *)p = (uint32_t)v;
		return;
	default:
		ASSERT(k->width == 8);
		*(uint64_t *)p = v;
	}
}

static uint64_t fetch(const struct key *k, const void *base)
{
	const void *p = field_const(k, base);

	switch (k->width) {
	case 1:
		return *(const uint8_t *)p;
	case 2:
		return *(const uint16_t *)p;
	case 4:
		return *(const uint32_t *)p;
	default:
		ASSERT(k->width == 8);
		return *(const uint64_t *)p;
	}
}

/* ---- numbers with a unit ---- */

struct unit {
	const char *suffix;
	uint64_t times;
};

static const struct unit count_units[] = {{"", 1}, {"k", 1000}, {"m", 1000000}};
static const struct unit size_units[] = {
	{"", 1}, {"k", 1ull << 10}, {"m", 1ull << 20}, {"g", 1ull << 30}, {"t", 1ull << 40}};
static const struct unit time_units[] = {
	{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

enum number { NUMBER_OK, NUMBER_BAD, NUMBER_NO_UNIT };

/* Digits and a suffix of the table; what is too large for 64 bits becomes UINT64_MAX. */
static enum number read_number(const char *p, const struct unit *units, size_t count, uint64_t *out)
{
	uint64_t v = 0;
	bool over = false;
	const char *digits = p;

	for (; *p >= '0' && *p <= '9'; p++)
		over |= __builtin_mul_overflow(v, 10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(*p - '0'), &v);
	if (p == digits)
		return NUMBER_BAD;
	for (size_t i = 0; i < count; i++) {
		if (!span_ieq(span_str(p), span_str(units[i].suffix)))
			continue;
		over |= __builtin_mul_overflow(v, units[i].times, &v);
		*out = over ? UINT64_MAX : v;
		return NUMBER_OK;
	}
	*out = v;
	return *p == 0 ? NUMBER_NO_UNIT : NUMBER_BAD;
}

/* The largest unit that loses nothing. */
static const char *number_text(uint64_t v, const struct unit *units, size_t count, char *buf)
{
	size_t best = 0;

	for (size_t i = 0; i < count; i++)
		if (v > 0 && v % units[i].times == 0)
			best = i;
	snprintf(buf, VALUE_TEXT_BYTES, "%lu%s", (unsigned long)(v / units[best].times),
		v > 0 ? units[best].suffix : "");
	return buf;
}

const char *count_text(uint64_t n, char buf[VALUE_TEXT_BYTES])
{
	return number_text(n, count_units, ARRAY_LEN(count_units), buf);
}

const char *size_text(uint64_t n, char buf[VALUE_TEXT_BYTES])
{
	return number_text(n, size_units, ARRAY_LEN(size_units), buf);
}

const char *duration_text(uint64_t ms, char buf[VALUE_TEXT_BYTES])
{
	const size_t days = ARRAY_LEN(time_units) - 1;

	/* Days from two on: "1d" reads worse than "24h". */
	return number_text(ms, time_units, ms > time_units[days].times ? days + 1 : days, buf);
}

static bool within(struct loader *l, const struct key *k, const struct node *n, uint64_t v,
	const char *(*text)(uint64_t v, char *buf))
{
	char lo[VALUE_TEXT_BYTES], hi[VALUE_TEXT_BYTES];

	if (v >= k->min && v <= k->max)
		return true;
	return fail_at(l, n, "`%s` must be between %s and %s, not %s", k->name, text(k->min, lo),
		text(k->max, hi), n->shown);
}

bool set_count(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint64_t v;

	if (!one_value(l, k, n))
		return false;
	if (read_number(n->text, count_units, ARRAY_LEN(count_units), &v) != NUMBER_OK)
		return malformed(l, k, n);
	if (!within(l, k, n, v, count_text))
		return false;
	store(k, base, v);
	return true;
}

void put_count(FILE *out, const struct key *k, const void *base, int indent)
{
	char buf[VALUE_TEXT_BYTES];

	fprintf(out, "%s\n", count_text(fetch(k, base), buf));
}

bool set_size(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint64_t v;

	if (!one_value(l, k, n))
		return false;
	if (read_number(n->text, size_units, ARRAY_LEN(size_units), &v) != NUMBER_OK)
		return malformed(l, k, n);
	if (!within(l, k, n, v, size_text))
		return false;
	store(k, base, v);
	return true;
}

void put_size(FILE *out, const struct key *k, const void *base, int indent)
{
	char buf[VALUE_TEXT_BYTES];

	fprintf(out, "%s\n", size_text(fetch(k, base), buf));
}

bool set_duration(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint64_t v;
	enum number r;

	if (!one_value(l, k, n))
		return false;
	r = read_number(n->text, time_units, ARRAY_LEN(time_units), &v);
	if (r == NUMBER_NO_UNIT && v > 0)
		return fail_at(l, n, "`%s` needs a unit: `%ss` is %s seconds, `%sm` minutes",
			k->name, n->shown, n->shown, n->shown);
	if (r == NUMBER_BAD)
		return malformed(l, k, n);
	if (!within(l, k, n, v, duration_text))
		return false;
	store(k, base, v);
	return true;
}

void put_duration(FILE *out, const struct key *k, const void *base, int indent)
{
	char buf[VALUE_TEXT_BYTES];

	fprintf(out, "%s\n", duration_text(fetch(k, base), buf));
}

/* ---- rates: a count per window ---- */

static const struct unit rate_windows[] = {{"s", 1000}, {"sec", 1000}, {"min", 60000}, {"m", 60000},
	{"h", 3600000}, {"hour", 3600000}};
#define RATE_WINDOW_MS 60000 /* when the rate is off */

bool set_rate(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint32_t *window = (uint32_t *)(void *)((char *)base + k->off2);
	const char *slash;
	uint64_t v;

	if (!one_value(l, k, n))
		return false;
	if (strcmp(n->text, "0") == 0) {
		store(k, base, 0);
		*window = RATE_WINDOW_MS;
		return true;
	}
	slash = strchr(n->text, '/');
	if (slash == NULL || read_number(arena_text(l->tmp, n->text, (size_t)(slash - n->text)),
				     count_units, ARRAY_LEN(count_units), &v) != NUMBER_OK)
		return malformed(l, k, n);
	for (size_t i = 0; i < ARRAY_LEN(rate_windows); i++) {
		if (strcmp(slash + 1, rate_windows[i].suffix) != 0)
			continue;
		if (!within(l, k, n, v, count_text))
			return false;
		store(k, base, v);
		*window = (uint32_t)rate_windows[i].times;
		return true;
	}
	return malformed(l, k, n);
}

void put_rate(FILE *out, const struct key *k, const void *base, int indent)
{
	uint32_t window = *(const uint32_t *)(const void *)((const char *)base + k->off2);
	char buf[VALUE_TEXT_BYTES];
	uint64_t v = fetch(k, base);

	if (v == 0) {
		fputs("0\n", out);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(rate_windows); i++) {
		if (rate_windows[i].times == window) {
			fprintf(out, "%s/%s\n", count_text(v, buf), rate_windows[i].suffix);
			return;
		}
	}
	ASSERT(!"a window that no rate has");
}

/* ---- words ---- */

static const struct {
	const char *word;
	bool value;
} switches[] = {{"on", true}, {"off", false}, {"yes", true}, {"no", false}, {"true", true},
	{"false", false}};

bool set_bool(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	if (!one_value(l, k, n))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(switches); i++) {
		if (span_ieq(span_str(n->text), span_str(switches[i].word))) {
			store(k, base, switches[i].value);
			return true;
		}
	}
	return malformed(l, k, n);
}

void put_bool(FILE *out, const struct key *k, const void *base, int indent)
{
	fputs(fetch(k, base) != 0 ? "on\n" : "off\n", out);
}

#define WORDS_MAX 16

static bool unknown_word(struct loader *l, const struct key *k, const struct node *n)
{
	const char *known[WORDS_MAX], *near;
	char all[256] = "";
	size_t count = 0, at = 0;

	for (const struct word *w = k->words; w->word != NULL; w++) {
		ASSERT(count < WORDS_MAX);
		if (w->later != NULL)
			continue;
		known[count++] = w->word;
		at += (size_t)snprintf(
			all + at, sizeof(all) - at, "%s%s", at > 0 ? ", " : "", w->word);
		ASSERT(at < sizeof(all));
	}
	near = suggest(n->text, known, count);
	if (near != NULL)
		return fail_at(l, n, "`%s` cannot be `%s`, did you mean `%s`? (it can be %s)",
			k->name, n->shown, near, all);
	return fail_at(l, n, "`%s` cannot be `%s`: it can be %s", k->name, n->shown, all);
}

/* NULL after an error. */
static const struct word *known_word(struct loader *l, const struct key *k, const struct node *n)
{
	for (const struct word *w = k->words; w->word != NULL; w++) {
		if (strcmp(w->word, n->text) != 0)
			continue;
		if (w->later == NULL)
			return w;
		fail_at(l, n, "%s", w->later);
		return NULL;
	}
	unknown_word(l, k, n);
	return NULL;
}

bool set_word(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	const struct word *w = one_value(l, k, n) ? known_word(l, k, n) : NULL;

	if (w == NULL)
		return false;
	store(k, base, (uint64_t)w->value);
	return true;
}

const char *word_stored(const struct key *k, const void *base)
{
	const struct word *w = k->words;

	if (k->width > 0)
		while (w->word != NULL &&
			(w->later != NULL || (uint64_t)w->value != fetch(k, base)))
			w++;
	ASSERT(w->word != NULL);
	return w->word;
}

void put_word(FILE *out, const struct key *k, const void *base, int indent)
{
	fprintf(out, "%s\n", word_stored(k, base));
}

bool value_differs(const struct key *k, const void *base)
{
	switch (k->type) {
	case TYPE_WORD:
		return strcmp(word_stored(k, base), k->def) != 0;
	case TYPE_BOOL:
		return (fetch(k, base) != 0) != (strcmp(k->def, "on") == 0);
	case TYPE_PINS:
		return *(const uint32_t *)(const void *)((const char *)base + k->off2) > 0;
	default:
		ASSERT(k->def == NULL);
		return *(const void *const *)field_const(k, base) != NULL;
	}
}

/* Several of them: a bit for each. */
bool set_words(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct values in;
	uint64_t mask = 0;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	for (uint32_t i = 0; i < in.count; i++) {
		const struct word *w = known_word(l, k, in.v[i]);
		uint64_t bit = w != NULL ? 1ull << w->value : 0;

		if ((mask & bit) != 0)
			fail_at(l, in.v[i], "`%s` is in the list twice", in.v[i]->shown);
		good &= w != NULL && (mask & bit) == 0;
		mask |= bit;
	}
	if (good)
		store(k, base, mask);
	return good;
}

void put_words(FILE *out, const struct key *k, const void *base, int indent)
{
	uint64_t mask = fetch(k, base);
	uint32_t count = (uint32_t)__builtin_popcountll(mask), i = 0;

	put_list_start(out, count);
	for (const struct word *w = k->words; w->word != NULL; w++)
		if ((mask >> w->value & 1) != 0)
			put_list_item(out, i++, count, indent, span_str(w->word));
	put_list_end(out, count);
}

/* ---- CPUs ---- */

struct cpu_set {
	bool in[CONF_CPUS_MAX];
	uint32_t count;
};

/* What the process may run on; CPU 0 when the kernel will not say. */
static void cpus_allowed(struct cpu_set *s)
{
	cpu_set_t *mask = CPU_ALLOC(CONF_CPUS_MAX);
	size_t bytes = CPU_ALLOC_SIZE(CONF_CPUS_MAX);

	memset(s, 0, sizeof(*s));
	if (mask != NULL && sched_getaffinity(0, bytes, mask) == 0)
		for (int i = 0; i < CONF_CPUS_MAX; i++)
			s->count += s->in[i] = CPU_ISSET_S(i, bytes, mask);
	if (mask != NULL)
		CPU_FREE(mask);
	if (s->count == 0)
		s->count = s->in[0] = true;
}

/* "7", "0-7"; *p moves behind it. */
static bool cpu_range(const char **p, uint32_t *from, uint32_t *to)
{
	uint32_t *end[] = {from, to};

	for (size_t i = 0; i < 2; i++) {
		const char *digits = *p;

		*end[i] = 0;
		for (; **p >= '0' && **p <= '9' && *end[i] < CONF_CPUS_MAX; (*p)++)
			*end[i] = *end[i] * 10 + (uint32_t)(**p - '0');
		if (*p == digits || *end[i] >= CONF_CPUS_MAX)
			return false;
		if (i == 0 && **p != '-') {
			*to = *from;
			return true;
		}
		*p += i == 0;
	}
	return *from <= *to;
}

static bool cpu_list(const char *p, struct cpu_set *s)
{
	memset(s, 0, sizeof(*s));
	for (;;) {
		bool without = *p == '^';
		uint32_t from, to;

		p += without;
		if (!cpu_range(&p, &from, &to))
			return false;
		for (uint32_t i = from; i <= to; i++) {
			s->count += without ? -(uint32_t)s->in[i] : !s->in[i];
			s->in[i] = !without;
		}
		if (*p == 0)
			return true;
		if (*p++ != ',')
			return false;
		while (*p == ' ')
			p++;
	}
}

static void warn_cpus(struct loader *l, const struct node *n, const struct cpu_set *s)
{
	struct cpu_set allowed;

	cpus_allowed(&allowed);
	for (uint32_t i = 0; i < CONF_CPUS_MAX; i++) {
		if (s->in[i] && !allowed.in[i]) {
			diag_warn(l->d, n->at, "this process may not run on CPU %u (of %u it may)",
				i, allowed.count);
			return;
		}
	}
}

bool set_cpus(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf *c = base;
	struct cpu_set set;
	uint64_t number;

	if (!one_value(l, k, n))
		return false;
	c->pinned = true;
	if (strcmp(n->text, "auto") == 0)
		cpus_allowed(&set);
	else if (strspn(n->text, "0123456789") == n->len) {
		read_number(n->text, count_units, 1, &number);
		if (!within(l, k, n, number, count_text))
			return false;
		c->pinned = false;
		set.count = (uint32_t)number;
		for (uint32_t i = 0; i < CONF_CPUS_MAX; i++)
			set.in[i] = i < number;
	} else if (!cpu_list(n->text, &set))
		return malformed(l, k, n);
	else if (set.count == 0)
		return fail_at(l, n, "`%s` leaves no CPU", k->name);
	else
		warn_cpus(l, n, &set);
	c->cpu_count = 0;
	for (uint32_t i = 0; i < CONF_CPUS_MAX; i++)
		if (set.in[i])
			c->cpus[c->cpu_count++] = (uint16_t)i;
	ASSERT(c->cpu_count == set.count);
	return true;
}

void put_cpus(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf *c = base;
	uint32_t i = 0;

	if (!c->pinned) {
		fprintf(out, "%u\n", c->cpu_count);
		return;
	}
	while (i < c->cpu_count) {
		uint32_t from = c->cpus[i], to = from;

		while (++i < c->cpu_count && c->cpus[i] == to + 1)
			to++;
		/* A range even of one: "4" alone would be a number of threads. */
		fprintf(out, "%u-%u%s", from, to, i < c->cpu_count ? "," : "\n");
	}
}

/* ---- text ---- */

/* Of a character of n octets. */
static unsigned text_point(const uint8_t *p, size_t n)
{
	unsigned v = p[0] & (0xffu >> (n > 1 ? n + 1 : 1));

	for (size_t i = 1; i < n; i++)
		v = v << 6 | (p[i] & 0x3fu);
	return v;
}

/* Inside a pair of quotes. What YAML or a terminal would take for something else goes by its
 * number; all of that is below U+10000. Setters let only valid UTF-8 in. */
static void put_escaped(FILE *out, const char *text, size_t count)
{
	const uint8_t *p = (const uint8_t *)text, *end = p + count;

	while (p < end) {
		size_t n = text_char(p, end);

		if (!text_clean(span_of(p, n))) {
			fprintf(out, "\\u%04x", text_point(p, n));
		} else {
			if (*p == '"' || *p == '\\')
				fputc('\\', out);
			else if (*p == '$' && p + 1 < end && p[1] == '{')
				fputc('$', out);
			fwrite(p, 1, n, out);
		}
		p += n;
	}
}

void put_quoted(FILE *out, const char *p, size_t n)
{
	fputc('"', out);
	put_escaped(out, p, n);
	fputc('"', out);
}

static void put_string(FILE *out, const struct key *k, const void *base)
{
	const char *s = *(const char *const *)field_const(k, base);

	put_quoted(out, s, strlen(s));
	fputc('\n', out);
}

static void store_string(struct loader *l, const struct key *k, void *base, const char *p, size_t n)
{
	*(const char **)field(k, base) = arena_text(l->keep, p, n);
}

static bool printable(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] < 0x20 || p[i] > 0x7e)
			return false;
	return true;
}

bool set_user(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	if (!one_value(l, k, n))
		return false;
	if (!printable(n->text, n->len))
		return malformed(l, k, n);
	/* Nobody but root can change: elsewhere the name need not exist. */
	if (geteuid() == 0 && getpwnam(n->text) == NULL)
		return fail_at(l, n, "there is no user `%s` on this machine", n->shown);
	store_string(l, k, base, n->text, n->len);
	return true;
}

void put_user(FILE *out, const struct key *k, const void *base, int indent)
{
	put_string(out, k, base);
}

bool set_log_to(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	static const char *const later[] = {"journald", "syslog"};

	if (!one_value(l, k, n))
		return false;
	if (strcmp(n->text, "stderr") == 0) {
		*(const char **)field(k, base) = NULL;
		return true;
	}
	for (size_t i = 0; i < ARRAY_LEN(later); i++)
		if (strcmp(n->text, later[i]) == 0)
			return fail_at(l, n,
				"this version of ringpost does not log to %s yet: `to` can be "
				"stderr or "
				"file:PATH (systemd's journal reads stderr)",
				later[i]);
	if (strncmp(n->text, "file:", 5) != 0 || n->len == 5 ||
		!text_clean(span_of(n->text, n->len)))
		return malformed(l, k, n);
	store_string(l, k, base, n->text + 5, n->len - 5);
	return true;
}

void put_log_to(FILE *out, const struct key *k, const void *base, int indent)
{
	const char *path = *(const char *const *)field_const(k, base);

	if (path == NULL) {
		fputs("stderr\n", out);
		return;
	}
	fputs("\"file:", out);
	put_escaped(out, path, strlen(path));
	fputs("\"\n", out);
}

/* ---- replies ---- */

bool set_code(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint64_t v;

	if (!one_value(l, k, n))
		return false;
	if (n->len != 3 || read_number(n->text, count_units, 1, &v) != NUMBER_OK || v < k->min ||
		v > k->max)
		return fail_at(
			l, n, "`%s` cannot be `%s`: a refusal is 4xx or 5xx", k->name, n->shown);
	if (v == 421)
		return fail_at(l, n, "421 would end the session: a hook refuses with another code");
	store(k, base, v);
	return true;
}

void put_code(FILE *out, const struct key *k, const void *base, int indent)
{
	fprintf(out, "%u\n", (unsigned)fetch(k, base));
}

/* class "." subject "." detail, RFC 3463 2: 4 or 5, then twice up to three digits, no leading zero.
 */
static bool enhanced_form(const char *p)
{
	if (*p != '4' && *p != '5')
		return false;
	p++;
	for (int i = 0; i < 2; i++) {
		size_t n;

		if (*p++ != '.')
			return false;
		n = strspn(p, "0123456789");
		if (n < 1 || n > 3 || (n > 1 && *p == '0'))
			return false;
		p += n;
	}
	return *p == 0;
}

bool set_enhanced(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	if (!one_value(l, k, n))
		return false;
	if (!enhanced_form(n->text))
		return malformed(l, k, n);
	store_string(l, k, base, n->text, n->len);
	return true;
}

void put_enhanced(FILE *out, const struct key *k, const void *base, int indent)
{
	put_string(out, k, base);
}

static bool short_enough(struct loader *l, const struct key *k, const struct node *n)
{
	return n->len <= k->max || fail_at(l, n, "`%s` has %zu octets, %lu at most are allowed",
					   k->name, n->len, (unsigned long)k->max);
}

/* A pair of quotes with nothing between them, where that is a value. */
static bool empty_text(const struct key *k, const struct node *n)
{
	return k->min == 0 && !n->bad && n->kind == NODE_SCALAR && n->len == 0 && !node_null(n);
}

bool set_line(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	if (!empty_text(k, n) && !(one_value(l, k, n) && short_enough(l, k, n)))
		return false;
	if (!printable(n->text, n->len))
		return fail_at(l, n, "`%s` must be one line of printable ASCII", k->name);
	store_string(l, k, base, n->text, n->len);
	return true;
}

void put_line(FILE *out, const struct key *k, const void *base, int indent)
{
	put_string(out, k, base);
}

/* Whether anything is there is for those to find out who open it, as the user they then are. */
bool set_path(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	if (!one_value(l, k, n))
		return false;
	if (n->text[0] != '/')
		return fail_at(l, n,
			"`%s` is a relative path (`%s`), which would depend on where ringpost is "
			"started: write an absolute one, such as %s",
			k->name, n->shown, conf_types[k->type].written);
	if (!text_clean(span_of(n->text, n->len)))
		return fail_at(l, n, "`%s` must be UTF-8 text without control characters", k->name);
	if (!short_enough(l, k, n))
		return false;
	store_string(l, k, base, n->text, n->len);
	return true;
}

void put_path(FILE *out, const struct key *k, const void *base, int indent)
{
	put_string(out, k, base);
}

/* What TLS is to use: names with colons between them. Who makes a context of them knows which
 * exist. */
static bool suites_form(const char *p)
{
	for (size_t n; (n = strspn(p, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789-_")) > 0;
		p += n + 1) {
		if (p[n] == 0)
			return true;
		if (p[n] != ':')
			return false;
	}
	return false;
}

bool set_suites(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	if (!one_value(l, k, n))
		return false;
	if (!suites_form(n->text))
		return fail_at(l, n,
			"`%s` cannot be `%s`: names with colons between them are meant, such as %s",
			k->name, n->shown, conf_types[k->type].written);
	if (!short_enough(l, k, n))
		return false;
	store_string(l, k, base, n->text, n->len);
	return true;
}

void put_suites(FILE *out, const struct key *k, const void *base, int indent)
{
	put_string(out, k, base);
}
