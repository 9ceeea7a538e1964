/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See material.h. A certificate is tried by a site of its own, which is thrown away: so one that is
 * bad is told of once, whoever uses it, and the others are tried still; and that site knows when
 * the certificate ends. What a listener or an upstream then fails at is its own: lists, CAs.
 *
 * Failure modes: files that are missing, unreadable or nonsense, a key of another certificate, no
 * memory. All are told and end in NULL.
 */
#include "engine/core/material.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DAY_S 86400
#define TEXT_MAX 320
#define DATE_BYTES 32

static void tell(const struct material_teller *t, const struct material_note *n)
{
	t->tell(t->arg, n);
}

void material_print(void *print, const struct material_note *n)
{
	const struct material_print *p = print;

	fprintf(p->out, "%s: %s%s", n->where, p->before, n->whose);
	if (n->name[0] != 0)
		fprintf(p->out, " `%s`", n->name);
	fprintf(p->out, ": %s%s%s\n", n->file ? n->file : "", n->file ? ": " : "", n->text);
}

/* ---- making ---- */

/* What is under way. */
struct making {
	const struct conf *conf;
	struct tls_keys *keys;
	struct tls_keylog *log;
	const struct material_teller *teller;
	struct material *m;
	bool *bad; /* by name of `certificates`: told */
	bool failed;
};

static bool failed(struct making *k, struct material_note n, const struct tls_error *e)
{
	n.file = e->file ? e->file : n.file;
	n.text = e->text;
	tell(k->teller, &n);
	k->failed = true;
	return false;
}

static bool out_of_memory(struct making *k)
{
	return failed(k, (struct material_note){k->conf->tls.where, "tls", "", NULL, NULL},
		&(struct tls_error){NULL, "there is no memory for it"});
}

static bool try_pair(struct making *k, const struct conf_certificates *c, uint32_t i)
{
	const struct tls_site_conf alone = {.pairs = &c->pairs[i], .pair_count = 1};
	struct tls_error e = {0};
	struct tls_site *site = tls_site_new(&alone, NULL, NULL, &e);
	const char *chain;

	if (!site)
		return failed(k,
			(struct material_note){c->wheres[i], "certificates", c->name, NULL, NULL},
			&e);
	k->m->ends[k->m->end_count++] = (struct material_end){
		c->wheres[i], c->name, c->pairs[i].chain, tls_site_expires_s(site, &chain)};
	tls_site_unref(site);
	return true;
}

static void try_certificates(struct making *k)
{
	for (uint32_t i = 0; i < k->conf->certificate_count; i++) {
		const struct conf_certificates *c = &k->conf->certificates[i];

		for (uint32_t j = 0; j < c->pair_count; j++)
			k->bad[i] |= !try_pair(k, c, j);
	}
}

static bool usable(const struct making *k, const struct conf_certificates *c)
{
	return !c || !k->bad[c - k->conf->certificates];
}

static void make_sites(struct making *k)
{
	for (uint32_t i = 0; i < k->conf->listener_count; i++) {
		const struct conf_listener *ls = &k->conf->listeners[i];
		struct tls_error e = {0};

		if (ls->starttls < STARTTLS_OFFER || !usable(k, ls->certificates))
			continue;
		k->m->tls->sites[i] = tls_site_new(&ls->tls, k->keys, k->log, &e);
		if (!k->m->tls->sites[i])
			failed(k,
				(struct material_note){ls->where, "listener", ls->name, NULL, NULL},
				&e);
	}
}

static void make_policies(struct making *k)
{
	for (uint32_t i = 0; i < k->conf->upstream_count; i++) {
		const struct conf_upstream *u = &k->conf->upstreams[i];
		struct tls_error e = {0};

		if (u->tls.mode == CONF_TLS_OFF || !usable(k, u->tls.certificate))
			continue;
		k->m->tls->policies[i] = tls_policy_new(&u->tls.policy, k->log, &e);
		if (!k->m->tls->policies[i])
			failed(k, (struct material_note){u->where, "upstream", u->name, NULL, NULL},
				&e);
	}
}

static uint32_t pairs_of(const struct conf *c)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->certificate_count; i++)
		n += c->certificates[i].pair_count;
	return n;
}

static bool allocate(struct making *k)
{
	struct material *m = k->m = calloc(1, sizeof(*m));

	k->bad = calloc(MAX_OF(1u, k->conf->certificate_count), sizeof(*k->bad));
	if (!m || !k->bad)
		return false;
	m->tls = tls_material_new(k->conf->listener_count, k->conf->upstream_count);
	m->ends = calloc(MAX_OF(1u, pairs_of(k->conf)), sizeof(*m->ends));
	return m->tls && m->ends;
}

struct material *material_new(const struct conf *c, struct tls_keys *keys, struct tls_keylog *log,
	const struct material_teller *t)
{
	struct making k = {.conf = c, .keys = keys, .log = log, .teller = t};

	if (allocate(&k)) {
		try_certificates(&k);
		make_sites(&k);
		make_policies(&k);
	} else
		out_of_memory(&k);
	free(k.bad);
	if (!k.failed)
		return k.m;
	material_free(k.m);
	return NULL;
}

void material_free(struct material *m)
{
	if (!m)
		return;
	tls_material_unref(m->tls);
	free(m->ends);
	free(m);
}

bool material_needed(const struct conf *c)
{
	bool needed = c->certificate_count > 0;

	for (uint32_t i = 0; i < c->upstream_count; i++)
		needed |= c->upstreams[i].tls.mode != CONF_TLS_OFF;
	return needed;
}

bool material_keys(const struct conf *c, struct tls_keys **out, const struct material_teller *t)
{
	struct making k = {.conf = c, .teller = t};
	struct tls_error e = {0};

	*out = NULL;
	if (c->tls.ticket_rotate_ms == 0)
		return true;
	*out = tls_keys_new(c->tls.ticket_keys, (c->tls.ticket_rotate_ms + 999) / 1000, &e);
	return *out || failed(&k, (struct material_note){c->tls.where, "tls", "", NULL, NULL}, &e);
}

/* ---- worries ---- */

static void worry_unreadable(
	const struct conf *c, struct material_note n, const struct material_teller *t)
{
	char text[TEXT_MAX];

	if (!n.file || access(n.file, R_OK) == 0)
		return;
	snprintf(text, sizeof(text),
		"%s%s cannot read it (%s): nor can a HUP, which would leave what is there",
		c->user ? "user " : "this process", c->user ? c->user : "", strerror(errno));
	n.text = text;
	tell(t, &n);
}

static void worry_open(struct material_note n, const struct material_teller *t)
{
	struct stat st;

	if (stat(n.file, &st) != 0 || !(st.st_mode & S_IROTH))
		return;
	n.text = "everybody on this machine can read this key: take that from others (chmod o-r)";
	tell(t, &n);
}

void material_worries(const struct conf *c, const struct material_teller *t)
{
	for (uint32_t i = 0; i < c->certificate_count; i++) {
		const struct conf_certificates *s = &c->certificates[i];

		for (uint32_t j = 0; j < s->pair_count; j++) {
			struct material_note n = {s->wheres[j], "certificates", s->name, NULL, ""};

			n.file = s->pairs[j].chain;
			worry_unreadable(c, n, t);
			n.file = s->pairs[j].key;
			worry_unreadable(c, n, t);
			worry_open(n, t);
		}
	}
	for (uint32_t i = 0; i < c->listener_count; i++) {
		const struct conf_listener *l = &c->listeners[i];

		worry_unreadable(c,
			(struct material_note){l->where, "listener", l->name, l->tls.client_ca, ""},
			t);
	}
	for (uint32_t i = 0; i < c->upstream_count; i++) {
		const struct conf_upstream *u = &c->upstreams[i];

		worry_unreadable(c,
			(struct material_note){u->where, "upstream", u->name, u->tls.policy.ca, ""},
			t);
	}
}

/* ---- ends ---- */

/* Whole days, negative once it has ended. */
static int64_t days_left(int64_t end_s, int64_t now_s)
{
	int64_t left = end_s - now_s;

	return left >= 0 ? left / DAY_S : -1 - (-left - 1) / DAY_S;
}

static void date_text(int64_t at_s, char buf[DATE_BYTES])
{
	time_t t = (time_t)at_s;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || !strftime(buf, DATE_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(buf, DATE_BYTES, "%lld", (long long)at_s);
}

static void end_text(int64_t end_s, int64_t now_s, char buf[TEXT_MAX])
{
	int64_t days = days_left(end_s, now_s);
	char date[DATE_BYTES];

	date_text(end_s, date);
	if (days < 0)
		snprintf(buf, TEXT_MAX, "has expired (%s)", date);
	else
		snprintf(buf, TEXT_MAX, "expires in %lld day%s (%s)", (long long)days,
			days == 1 ? "" : "s", date);
}

uint32_t material_expiring(const struct material *m, const struct conf *c, int64_t now_s,
	int64_t before_s, const struct material_teller *t)
{
	int64_t within_s = (int64_t)(c->tls.expiry_warning_ms / 1000);
	char text[TEXT_MAX];
	uint32_t count = 0;

	for (uint32_t i = 0; i < m->end_count; i++) {
		const struct material_end *e = &m->ends[i];

		if (e->at_s - now_s > within_s)
			continue;
		count++;
		if (before_s != 0 && e->at_s - before_s <= within_s &&
			days_left(e->at_s, now_s) == days_left(e->at_s, before_s))
			continue;
		end_text(e->at_s, now_s, text);
		tell(t, &(struct material_note){e->where, "certificates", e->name, e->file, text});
	}
	return count;
}

void material_list(const struct material *m, int64_t now_s, FILE *out)
{
	char text[TEXT_MAX];

	for (uint32_t i = 0; i < m->end_count; i++) {
		end_text(m->ends[i].at_s, now_s, text);
		fprintf(out, "%s: %s\n", m->ends[i].file, text);
	}
}
