/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Lists of mail addresses and names, references to hooks, upstreams and certificates, options of
 * hooks, the policy per EHLO keyword; and how lists are written in a dump.
 *
 * A reference to something that was never defined is reported here, where it is made: the names are
 * known before the first listener is read (load.c).
 */
#include "engine/conf/conf_int.h"

/* ---- writing ---- */

#define LIST_SHORT 4 /* items that go into one line */

void put_list_start(FILE *out, uint32_t count)
{
	if (count <= LIST_SHORT)
		fputc('[', out);
}

void put_list_item(FILE *out, uint32_t i, uint32_t count, int indent, struct span text)
{
	if (count > LIST_SHORT)
		fprintf(out, "\n%*s- ", indent, "");
	else if (i > 0)
		fputs(", ", out);
	put_quoted(out, (const char *)text.p, text.n);
}

void put_list_end(FILE *out, uint32_t count)
{
	fputs(count <= LIST_SHORT ? "]\n" : "\n", out);
}

/* ---- mail addresses and names ---- */

#define LOCAL_BYTES_MAX 64   /* RFC 5321 4.5.3.1.1 */
#define DOMAIN_BYTES_MAX 255 /* 4.5.3.1.2 */

/* Labels of letters, digits, '-', '_' or UTF-8 (RFC 6531), or an address literal; lower case into
 * the snapshot. A trailing dot is not part of a mail domain. */
static bool domain_set(struct loader *l, struct span in, struct span *out)
{
	bool literal = in.n > 2 && in.p[0] == '[' && in.p[in.n - 1] == ']';
	uint8_t *low;

	if (in.n == 0 || in.n > DOMAIN_BYTES_MAX || !text_clean(in))
		return false;
	low = (uint8_t *)arena_text(l->keep, (const char *)in.p, in.n);
	for (size_t i = 0; i < in.n; i++) {
		uint8_t c = low[i] = ascii_lower(in.p[i]);
		bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80 ||
			    c == '-' || c == '_';
		bool dot = c == '.' && i > 0 && i + 1 < in.n && low[i - 1] != '.';

		if (!word && !dot && !(literal && strchr("[]:.", c) != NULL))
			return false;
	}
	*out = span_of(low, in.n);
	return true;
}

static bool local_clean(struct span s)
{
	bool quoted = s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"';

	if (s.n == 0 || s.n > LOCAL_BYTES_MAX || !text_clean(s))
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (!quoted && strchr(" <>()[],;:\\\"@", s.p[i]) != NULL)
			return false;
	return true;
}

/* user@dom | @dom | @.dom */
static bool pattern_set(struct loader *l, const struct node *n, struct conf_pattern *out)
{
	const char *at = strrchr(n->text, '@');
	struct span domain;

	if (at == NULL)
		return fail_at(l, n,
			"`%s` is no address: `user@example.org` is one, `@example.org` a whole "
			"domain",
			n->shown);
	out->local = span_of(n->text, (size_t)(at - n->text));
	domain = span_str(at + 1);
	out->kind = out->local.n > 0 ? PAT_EXACT : PAT_DOMAIN;
	if (out->kind == PAT_DOMAIN && domain.n > 0 && domain.p[0] == '.') {
		out->kind = PAT_SUBDOMAINS;
		domain = span_drop(domain, 1);
	}
	if (!domain_set(l, domain, &out->domain))
		return fail_at(l, n, "`%s`: the domain is not one", n->shown);
	if (out->kind == PAT_EXACT && !local_clean(out->local))
		return fail_at(l, n, "`%s`: what stands before the @ is no local part", n->shown);
	out->local = span_of(arena_text(l->keep, n->text, out->local.n), out->local.n);
	return true;
}

/* host.dom | .dom */
static bool name_set(struct loader *l, const struct node *n, struct conf_pattern *out)
{
	struct span name = span_of(n->text, n->len);

	out->kind = name.n > 0 && name.p[0] == '.' ? PAT_SUBDOMAINS : PAT_EXACT;
	if (out->kind == PAT_SUBDOMAINS)
		name = span_drop(name, 1);
	if (domain_set(l, name, &out->domain))
		return true;
	return fail_at(
		l, n, "`%s` is no host name: write %s", n->shown, conf_types[TYPE_NAMES].written);
}

bool set_host(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct span name;

	if (!one_value(l, k, n))
		return false;
	for (size_t i = 0; i < n->len; i++)
		if ((uint8_t)n->text[i] >= 0x80)
			return fail_at(l, n,
				"`%s` must be ASCII: an internationalized name is written as "
				"certificates have it (xn--...)",
				k->name);
	if (!domain_set(l, span_of(n->text, n->len), &name) || name.n > k->max || name.p[0] == '[')
		return fail_at(l, n, "`%s` is no host name: write %s", n->shown,
			conf_types[k->type].written);
	if (strspn(n->text, "0123456789.") == n->len)
		return fail_at(l, n, "`%s` is an address: `%s` is a name that is in a certificate",
			n->shown, k->name);
	*(const char **)field(k, base) = (const char *)name.p;
	return true;
}

void put_host(FILE *out, const struct key *k, const void *base, int indent)
{
	const char *name = *(const char *const *)field_const(k, base);

	put_quoted(out, name, strlen(name));
	fputc('\n', out);
}

/* The counts stand beside the lists, in the same structure. */
static uint32_t *count_of(const struct key *k, void *base)
{
	return (uint32_t *)(void *)((char *)base + k->off2);
}

static uint32_t count_in(const struct key *k, const void *base)
{
	return *(const uint32_t *)(const void *)((const char *)base + k->off2);
}

static bool null_sender_of(const struct key *k, const void *base)
{
	const struct conf_rules *r = &((const struct conf_hook *)base)->rules;

	return k->off == offsetof(struct conf_hook, rules.senders) && r->reject_null_sender;
}

bool set_patterns(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_hook *h = base;
	struct conf_pattern *v;
	struct values in;
	bool good = true;
	uint32_t count = 0;

	if (!many_values(l, k, n, &in))
		return false;
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	for (uint32_t i = 0; i < in.count; i++) {
		if (strcmp(in.v[i]->text, "<>") != 0)
			good &= pattern_set(l, in.v[i], &v[count++]);
		else if (k->off == offsetof(struct conf_hook, rules.senders))
			h->rules.reject_null_sender = true;
		else
			good = fail_at(l, in.v[i], "`<>` is a sender, never a recipient");
	}
	*(const struct conf_pattern **)field(k, base) = v;
	*count_of(k, base) = good ? count : 0;
	return good;
}

void put_patterns(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_pattern *v = *(const struct conf_pattern *const *)field_const(k, base);
	uint32_t null = null_sender_of(k, base), count = count_in(k, base);
	char buf[LOCAL_BYTES_MAX + DOMAIN_BYTES_MAX + 4];

	put_list_start(out, count + null);
	if (null > 0)
		put_list_item(out, 0, count + null, indent, SPAN_LIT("<>"));
	for (uint32_t i = 0; i < count; i++) {
		int n = snprintf(buf, sizeof(buf), "%.*s@%s%.*s", (int)v[i].local.n,
			(const char *)v[i].local.p, v[i].kind == PAT_SUBDOMAINS ? "." : "",
			(int)v[i].domain.n, (const char *)v[i].domain.p);

		put_list_item(out, i + null, count + null, indent, span_of(buf, (size_t)n));
	}
	put_list_end(out, count + null);
}

bool set_names(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_pattern *v;
	struct values in;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	for (uint32_t i = 0; i < in.count; i++)
		good &= name_set(l, in.v[i], &v[i]);
	*(const struct conf_pattern **)field(k, base) = v;
	*count_of(k, base) = good ? in.count : 0;
	return good;
}

void put_names(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_pattern *v = *(const struct conf_pattern *const *)field_const(k, base);
	uint32_t count = count_in(k, base);
	char buf[DOMAIN_BYTES_MAX + 2];

	put_list_start(out, count);
	for (uint32_t i = 0; i < count; i++) {
		int n = snprintf(buf, sizeof(buf), "%s%.*s", v[i].kind == PAT_SUBDOMAINS ? "." : "",
			(int)v[i].domain.n, (const char *)v[i].domain.p);

		put_list_item(out, i, count, indent, span_of(buf, (size_t)n));
	}
	put_list_end(out, count);
}

/* ---- SHA-256 sums ---- */

#define PIN_BYTES 32

/* 64 digits; as `openssl x509 -fingerprint` writes them, with a colon behind each octet but the
 * last. */
static bool pin_set(const struct node *n, uint8_t *out)
{
	static const char digits[] = "0123456789abcdef";
	size_t step = n->len == 3 * PIN_BYTES - 1 ? 3 : 2;

	if (n->len != step * PIN_BYTES - (step - 2))
		return false;
	for (size_t i = 0; i < PIN_BYTES; i++) {
		const char *p = n->text + i * step;
		const char *hi = memchr(digits, ascii_lower((uint8_t)p[0]), 16);
		const char *lo = memchr(digits, ascii_lower((uint8_t)p[1]), 16);

		if (hi == NULL || lo == NULL || (step == 3 && i + 1 < PIN_BYTES && p[2] != ':'))
			return false;
		out[i] = (uint8_t)((hi - digits) << 4 | (lo - digits));
	}
	return true;
}

bool set_pins(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint8_t(*v)[PIN_BYTES];
	struct values in;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	for (uint32_t i = 0; i < in.count; i++) {
		if (!pin_set(in.v[i], v[i])) {
			good = fail_at(l, in.v[i], "`%s` is no SHA-256 sum: write %s",
				in.v[i]->shown, conf_types[k->type].written);
			continue;
		}
		for (uint32_t j = 0; j < i; j++)
			if (memcmp(v[j], v[i], PIN_BYTES) == 0)
				good = fail_at(
					l, in.v[i], "`%s` is in the list twice", in.v[i]->shown);
	}
	*(const uint8_t(**)[PIN_BYTES])field(k, base) = (const uint8_t(*)[PIN_BYTES])v;
	*count_of(k, base) = good ? in.count : 0;
	return good;
}

void put_pins(FILE *out, const struct key *k, const void *base, int indent)
{
	const uint8_t(*v)[PIN_BYTES] = *(const uint8_t(*const *)[PIN_BYTES])field_const(k, base);
	uint32_t count = count_in(k, base);
	char text[2 * PIN_BYTES + 1];

	put_list_start(out, count);
	for (uint32_t i = 0; i < count; i++) {
		for (size_t j = 0; j < PIN_BYTES; j++)
			snprintf(text + 2 * j, 3, "%02x", v[i][j]);
		put_list_item(out, i, count, indent, span_str(text));
	}
	put_list_end(out, count);
}

/* ---- references ---- */

#define DEFINED_MAX 1024 /* the most that the table allows of one section */

/* `first`: structures of `size` octets that start with their name. */
static bool undefined(struct loader *l, const struct node *n, const char *what, const void *first,
	size_t size, uint32_t count)
{
	const char *names[DEFINED_MAX], *near;

	ASSERT(count <= DEFINED_MAX);
	for (uint32_t i = 0; i < count; i++)
		names[i] = *(const char *const *)(const void *)((const char *)first + i * size);
	near = suggest(n->text, names, count);
	if (near != NULL)
		return fail_at(
			l, n, "%s `%s` is not defined, did you mean `%s`?", what, n->shown, near);
	return fail_at(
		l, n, "%s `%s` is not defined: `%ss` has no such name", what, n->shown, what);
}

bool set_upstream(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_listener *ls = base;
	uint32_t count = l->c->upstream_count;

	if (!one_value(l, k, n))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		if (strcmp(l->upstreams[i].name, n->text) == 0) {
			ls->upstream = &l->upstreams[i];
			l->upstream_used[i] = true;
			return true;
		}
	}
	/* None at all is an error of its own. */
	return count > 0 && undefined(l, n, "upstream", l->upstreams, sizeof(*l->upstreams), count);
}

void put_upstream(FILE *out, const struct key *k, const void *base, int indent)
{
	fprintf(out, "%s\n", ((const struct conf_listener *)base)->upstream->name);
}

static bool set_hook(struct loader *l, const struct node *n, const struct conf_hook **out)
{
	for (uint32_t i = 0; i < l->c->hook_count; i++) {
		if (strcmp(l->hooks[i].name, n->text) == 0) {
			*out = &l->hooks[i];
			l->hook_used[i] = true;
			return true;
		}
	}
	return undefined(l, n, "hook", l->hooks, sizeof(*l->hooks), l->c->hook_count);
}

bool set_hooks(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_listener *ls = base;
	const struct conf_hook **v;
	struct values in;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	for (uint32_t i = 0; i < in.count; i++) {
		good &= set_hook(l, in.v[i], &v[i]);
		for (uint32_t j = 0; j < i; j++)
			if (v[i] != NULL && v[j] == v[i])
				good = fail_at(l, in.v[i], "hook `%s` is in the list twice",
					in.v[i]->shown);
	}
	ls->hooks = v;
	ls->hook_count = good ? in.count : 0;
	return good;
}

void put_hooks(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_listener *ls = base;

	put_list_start(out, ls->hook_count);
	for (uint32_t i = 0; i < ls->hook_count; i++)
		put_list_item(out, i, ls->hook_count, indent, span_str(ls->hooks[i]->name));
	put_list_end(out, ls->hook_count);
}

bool set_certificate(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	const struct conf_certificates *v = l->c->certificates;
	uint32_t count = l->c->certificate_count;

	if (!one_value(l, k, n))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		if (strcmp(v[i].name, n->text) == 0) {
			*(const struct conf_certificates **)field(k, base) = &v[i];
			l->certificate_used[i] = true;
			return true;
		}
	}
	return undefined(l, n, "certificate", v, sizeof(*v), count);
}

void put_certificate(FILE *out, const struct key *k, const void *base, int indent)
{
	fprintf(out, "%s\n",
		(*(const struct conf_certificates *const *)field_const(k, base))->name);
}

static void put_pair(FILE *out, const struct tls_pair *p, int indent)
{
	fprintf(out, "\n%*s- chain: ", indent, "");
	put_quoted(out, p->chain, strlen(p->chain));
	fprintf(out, "\n%*s  key: ", indent, "");
	put_quoted(out, p->key, strlen(p->key));
}

void put_certificates(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_certificates *v =
		*(const struct conf_certificates *const *)field_const(k, base);
	uint32_t count = count_in(k, base);

	for (uint32_t i = 0; i < count; i++) {
		fprintf(out, "\n%*s%s:", indent, "", v[i].name);
		for (uint32_t j = 0; j < v[i].pair_count; j++)
			put_pair(out, &v[i].pairs[j], indent + 2);
	}
	fputs(count == 0 ? "{}\n" : "\n", out);
}

/* ---- options: what a hook is told, and nobody else understands ---- */

static bool set_option(struct loader *l, const struct item *i, struct conf_option *out)
{
	const struct node *key = i->key, *v = i->value;
	bool good =
		name_form(key) ||
		fail_at(l, key,
			"an option cannot be called `%s`: letters, digits and -_. after the first",
			key->shown);

	if (v->bad)
		return false;
	if (v->kind != NODE_SCALAR)
		return fail_at(l, v, "option `%s` takes one value, not a %s", key->shown,
			v->kind == NODE_LIST ? "list" : "mapping");
	if (node_null(v))
		return fail_at(l, v, "option `%s` has no value: quote it if that is meant (\"\")",
			key->shown);
	if (v->len > CONF_OPTION_BYTES_MAX)
		return fail_at(l, v, "option `%s` has %zu octets, %d at most are allowed",
			key->shown, v->len, CONF_OPTION_BYTES_MAX);
	/* What ${...} brings in can be anything; the dump is YAML and could not hold it. */
	if (!text_valid(span_of(v->text, v->len)))
		return fail_at(l, v, "option `%s` is not UTF-8 text", key->shown);
	*out = (struct conf_option){
		arena_text(l->keep, key->text, key->len), arena_text(l->keep, v->text, v->len)};
	return good;
}

bool set_options(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_option *v;
	uint32_t count = 0;
	bool good = true;

	if (n->bad)
		return false;
	if (n->kind != NODE_MAP && !node_null(n))
		return fail_at(l, n, "`%s` takes a mapping: write %s", k->name,
			conf_types[k->type].written);
	if (n->count > k->max)
		return fail_at(l, n, "`%s` has %u entries, %lu at most are allowed", k->name,
			n->count, (unsigned long)k->max);
	v = arena_alloc(l->keep, (n->count + 1) * sizeof(*v));
	for (const struct item *i = n->first; i != NULL; i = i->next)
		good &= set_option(l, i, &v[count++]);
	*(const struct conf_option **)field(k, base) = v;
	*count_of(k, base) = good ? count : 0;
	return good;
}

void put_options(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_option *v = *(const struct conf_option *const *)field_const(k, base);
	uint32_t count = count_in(k, base);

	for (uint32_t i = 0; i < count; i++) {
		fprintf(out, "\n%*s", indent, "");
		put_quoted(out, v[i].name, strlen(v[i].name));
		fputs(": ", out);
		put_quoted(out, v[i].value, strlen(v[i].value));
	}
	fputs(count == 0 ? "{}\n" : "\n", out);
}

/* ---- EHLO keywords ---- */

static const char *const reasons[EXT_COUNT] = {
#define X(id, keyword, policy, why) [id] = why,
#include "engine/smtp/extensions.def"
#undef X
	[EXT_OTHER] = "",
};

const char *ext_reason(enum smtp_ext e)
{
	return reasons[e];
}

/* ehlo-keyword of RFC 5321 4.1.1.1 */
static bool keyword_form(const struct node *n)
{
	for (size_t i = 0; i < n->len; i++) {
		uint8_t c = ascii_lower((uint8_t)n->text[i]);
		bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

		if (!alnum && (i == 0 || c != '-'))
			return false;
	}
	return n->len > 0 && n->len <= CONF_NAME_BYTES_MAX;
}

static bool set_other(struct loader *l, struct ehlo_policy *p, const struct node *key, bool pass)
{
	struct span word = span_of(key->text, key->len);

	for (uint32_t i = 0; i < p->named_count; i++)
		if (span_ieq(p->named[i].keyword, word))
			return fail_at(
				l, key, "`%s` is there twice (case does not count)", key->shown);
	if (p->named_count == EXT_NAMED_MAX)
		return fail_at(
			l, key, "more than %d keywords that ringpost does not know", EXT_NAMED_MAX);
	p->named[p->named_count].keyword =
		span_of(arena_text(l->keep, key->text, key->len), key->len);
	p->named[p->named_count++].policy = pass ? EXT_PASS : EXT_STRIP;
	return true;
}

static bool set_known(struct loader *l, struct ehlo_policy *p, enum smtp_ext e,
	const struct node *key, bool pass, bool *seen)
{
	if (*seen)
		return fail_at(l, key, "`%s` is there twice (case does not count)", key->shown);
	*seen = true;
	if (e == EXT_STARTTLS)
		return fail_at(l, key, "STARTTLS is governed by the listener's `starttls`");
	if ((e == EXT_XCLIENT || e == EXT_XFORWARD) && pass)
		return fail_at(l, key,
			"%s is governed by `trusted`: list the networks that may use it",
			key->shown);
	if (ext_default(e) == EXT_STRIP && pass)
		return fail_at(l, key, "%s cannot be passed: %s", key->shown, ext_reason(e));
	/* "pass" brings back what is the default anyway: as the server says, or by our rules. */
	p->policy[e] = (uint8_t)(pass ? ext_default(e) : EXT_STRIP);
	return true;
}

static bool set_extension(struct loader *l, struct ehlo_policy *p, const struct item *i, bool *seen)
{
	const struct node *key = i->key, *v = i->value;
	enum smtp_ext e = ext_find(span_of(key->text, key->len));
	bool pass = strcmp(v->text, "pass") == 0;

	if (v->bad)
		return false;
	if (v->kind != NODE_SCALAR || (!pass && strcmp(v->text, "strip") != 0))
		return fail_at(l, v, "an extension can be pass or strip");
	if (strcmp(key->text, "*") == 0) {
		p->policy[EXT_OTHER] = (uint8_t)(pass ? EXT_PASS : EXT_STRIP);
		return true;
	}
	if (!keyword_form(key))
		return fail_at(l, key, "`%s` is no EHLO keyword", key->shown);
	if (e == EXT_OTHER)
		return set_other(l, p, key, pass);
	return set_known(l, p, e, key, pass, &seen[e]);
}

bool set_extensions(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	bool seen[EXT_COUNT] = {false}, good = true;

	if (n->bad)
		return false;
	if (n->kind != NODE_MAP && !node_null(n))
		return fail_at(l, n, "`%s` takes a mapping: write %s", k->name,
			conf_types[k->type].written);
	for (const struct item *i = n->first; i != NULL; i = i->next)
		good &= set_extension(l, field(k, base), i, seen);
	return good;
}

void put_extensions(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct ehlo_policy *p = field_const(k, base);
	const char *comma = "";

	fputc('{', out);
	for (unsigned e = 0; e < EXT_COUNT; e++) {
		if (p->policy[e] == ext_default((enum smtp_ext)e))
			continue;
		fprintf(out, "%s\"%s\": %s", comma, ext_keywords[e],
			p->policy[e] == EXT_STRIP ? "strip" : "pass");
		comma = ", ";
	}
	for (uint32_t i = 0; i < p->named_count; i++) {
		fprintf(out, "%s\"%.*s\": %s", comma, (int)p->named[i].keyword.n,
			(const char *)p->named[i].keyword.p,
			p->named[i].policy == EXT_STRIP ? "strip" : "pass");
		comma = ", ";
	}
	fputs("}\n", out);
}
