/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From a file to a snapshot: read it whole, make a tree (yaml.c), walk it by the schema table,
 * check what no single key can know (check.c), print everything that was found.
 *
 * Mappings wait in a queue, outer ones first; so the names of all upstreams and hooks are known
 * before the first listener refers to one, in whatever order the file has them.
 *
 * Failure modes: a file that is missing, too large, no regular file or writable by others; errors
 * in it. All end in NULL with the reasons printed; nothing of a snapshot with an error gets out.
 */
#include "engine/conf/conf_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

struct job {
	struct job *next;
	enum scope scope;
	void *base;		 /* the structure its keys belong to */
	const struct node *map;	 /* NULL: nothing written, defaults only */
	const struct node *name; /* the key it stands behind; NULL for the root */
};

bool fail_at(struct loader *l, const struct node *n, const char *fmt, ...)
{
	va_list ap;
	char text[1024];

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	diag_error(l->d, n->at, "%s", text);
	return false;
}

void queue_map(
	struct loader *l, enum scope s, void *base, const struct node *map, const struct node *name)
{
	struct job *j = arena_alloc(l->tmp, sizeof(*j));

	*j = (struct job){.scope = s, .base = base, .map = map, .name = name};
	if (l->last_job != NULL)
		l->last_job->next = j;
	else
		l->jobs = j;
	l->last_job = j;
}

/* As if `text` had been written for the key at that place. */
bool set_text(struct loader *l, enum scope s, const char *key, void *base, struct mark at,
	struct span text)
{
	const struct key *k = key_find(s, key);
	struct node n = {.kind = NODE_SCALAR, .at = at};

	ASSERT(k != NULL);
	n.text = arena_text(l->tmp, (const char *)text.p, text.n);
	n.len = text.n;
	n.shown = text_shown(l->tmp, text);
	return conf_types[k->type].set(l, k, base, &n);
}

/* ---- mappings ---- */

bool set_map(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	queue_map(l, k->sub, base, n, n);
	return true;
}

bool name_form(const struct node *n)
{
	for (size_t i = 0; i < n->len; i++) {
		uint8_t c = ascii_lower((uint8_t)n->text[i]);
		bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

		if (!alnum && (i == 0 || strchr("-_.", c) == NULL))
			return false;
	}
	return n->len > 0 && n->len <= CONF_NAME_BYTES_MAX;
}

_Static_assert(offsetof(struct conf_listener, name) == 0 &&
		       offsetof(struct conf_upstream, name) == 0 &&
		       offsetof(struct conf_hook, name) == 0 &&
		       offsetof(struct conf_certificates, name) == 0,
	"set_named writes the name first");

#define CONF_PAIRS_MAX 16 /* of one name */

/* One mapping of a list; missing keys are told at its place. */
static void queue_pair(struct loader *l, struct tls_pair *p, const char **where,
	const struct node *map, const struct node *name)
{
	struct node *who = arena_alloc(l->tmp, sizeof(*who));

	*who = *name;
	who->at = map->at;
	*where = arena_printf(l->keep, "%s:%u:%u", l->d->name, map->at.line, map->at.col);
	queue_map(l, SCOPE_CERTIFICATE, p, map, who);
}

/* What stands behind a name of `certificates`: {chain, key}, or a list of these. */
static void queue_pairs(struct loader *l, struct conf_certificates *c, const struct item *entry)
{
	const struct node *n = entry->value;
	bool list = n->kind == NODE_LIST;
	uint32_t count = list ? MIN_OF(n->count, (uint32_t)CONF_PAIRS_MAX) : 1;
	struct tls_pair *pairs = arena_alloc(l->keep, (count + 1) * sizeof(*pairs));
	const char **wheres = arena_alloc(l->keep, (count + 1) * sizeof(*wheres));
	const struct item *i = n->first;

	c->pairs = pairs;
	c->wheres = wheres;
	c->pair_count = count;
	if (list && n->count == 0)
		fail_at(l, n, "`%s` is empty: at least one {chain: FILE, key: FILE} is needed",
			entry->key->shown);
	if (n->count > count && list)
		fail_at(l, n, "`%s` has %u certificates, %d at most are allowed", entry->key->shown,
			n->count, CONF_PAIRS_MAX);
	if (!list)
		queue_pair(l, &pairs[0], &wheres[0], n, entry->key);
	for (uint32_t at = 0; list && at < count; at++, i = i->next)
		queue_pair(l, &pairs[at], &wheres[at], i->value, entry->key);
}

bool set_named(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	uint32_t *count = (uint32_t *)(void *)((char *)base + k->off2);
	char *v;

	if (n->bad)
		return false;
	if (n->kind != NODE_MAP && !node_null(n))
		return fail_at(
			l, n, "`%s` takes a mapping, each entry under a name of its own", k->name);
	if (n->count < k->min)
		return fail_at(l, n, "`%s` is empty: at least one is needed", k->name);
	if (n->count > k->max)
		return fail_at(l, n, "`%s` has %u entries, %lu at most are allowed", k->name,
			n->count, (unsigned long)k->max);
	v = arena_alloc(l->keep, ((size_t)n->count + 1) * k->size);
	*(void **)field(k, base) = v;
	for (const struct item *i = n->first; i != NULL; i = i->next) {
		char *one = v + (size_t)*count * k->size;

		if (!name_form(i->key)) {
			fail_at(l, i->key,
				"a name cannot be `%s`: letters, digits and -_. after the first",
				i->key->shown);
			continue;
		}
		*(const char **)(void *)one = arena_text(l->keep, i->key->text, i->key->len);
		if (k->type == TYPE_CERTIFICATES)
			queue_pairs(l, (struct conf_certificates *)(void *)one, i);
		else
			queue_map(l, k->sub, one, i->value, i->key);
		(*count)++;
	}
	return true;
}

/* ---- short forms of mappings ---- */

void start_listener(void *base)
{
	struct conf_listener *ls = base;

	for (unsigned e = 0; e < EXT_COUNT; e++)
		ls->ehlo.policy[e] = (uint8_t)ext_default((enum smtp_ext)e);
}

bool scalar_starttls(struct loader *l, void *base, const struct node *n)
{
	const struct key *k = key_find(SCOPE_STARTTLS, "mode");

	return conf_types[k->type].set(l, k, base, n);
}

bool scalar_upstream_tls(struct loader *l, void *base, const struct node *n)
{
	const struct key *k = key_find(SCOPE_UPSTREAM_TLS, "mode");

	return conf_types[k->type].set(l, k, base, n);
}

/* "550 5.7.1 text", "550 text", "550" */
bool scalar_reply(struct loader *l, void *base, const struct node *n)
{
	struct span rest = span_of(n->text, n->len);
	size_t code = strcspn(n->text, " "), enhanced;

	if (!set_text(l, SCOPE_REPLY, "code", base, n->at, span_of(n->text, code)))
		return false;
	rest = span_drop(rest, MIN_OF(code + 1, rest.n));
	enhanced = strspn((const char *)rest.p, "0123456789.");
	if (enhanced > 1 && rest.p[1] == '.') {
		if (!set_text(l, SCOPE_REPLY, "enhanced", base, n->at, span_of(rest.p, enhanced)))
			return false;
		rest = span_drop(rest, MIN_OF(enhanced + 1, rest.n));
	}
	return rest.n == 0 || set_text(l, SCOPE_REPLY, "text", base, n->at, rest);
}

/* ---- one mapping ---- */

/* "a", "a or b", "a, b or c" */
static const char *in_words(struct loader *l, const char *const *v, size_t count)
{
	const char *all = v[0];

	for (size_t i = 1; i < count; i++)
		all = arena_printf(l->tmp, "%s%s%s", all, i + 1 < count ? ", " : " or ", v[i]);
	return all;
}

/* Where else a key of that name is at home; NULL: nowhere. */
static const char *homes_of(struct loader *l, const char *name)
{
	const char *paths[SCOPE_COUNT];
	size_t count = 0;

	for (size_t i = 0; i < conf_key_count; i++) {
		const char *path = conf_scopes[conf_keys[i].scope].path;

		if (conf_keys[i].type == TYPE_LATER || strcmp(conf_keys[i].name, name) != 0)
			continue;
		if (path[0] == 0)
			path = "the top of the file";
		if (count == 0 || strcmp(paths[count - 1], path) != 0)
			paths[count++] = path;
	}
	return count > 0 ? in_words(l, paths, count) : NULL;
}

#define SCOPE_KEYS_MAX 32

/* `more`: the scope that adds to the mapping's own, or that again. */
static void unknown_key(
	struct loader *l, const struct job *j, enum scope more, const struct node *key)
{
	const char *known[SCOPE_KEYS_MAX], *near, *home = homes_of(l, key->text);
	size_t count = 0, at = 0;
	char all[512] = "";

	for (size_t i = 0; i < conf_key_count; i++) {
		enum scope s = conf_keys[i].scope;

		if ((s != j->scope && s != more) || conf_keys[i].type == TYPE_LATER)
			continue;
		ASSERT(count < SCOPE_KEYS_MAX);
		known[count++] = conf_keys[i].name;
		at += (size_t)snprintf(
			all + at, sizeof(all) - at, "%s%s", at > 0 ? ", " : "", conf_keys[i].name);
		ASSERT(at < sizeof(all));
	}
	near = suggest(key->text, known, count);
	if (strcmp(key->text, "<<") == 0)
		fail_at(l, key,
			"merge keys are not supported: an alias can stand for a whole value");
	else if (near != NULL)
		fail_at(l, key, "unknown key `%s`, did you mean `%s`?", key->shown, near);
	else if (home != NULL)
		fail_at(l, key, "unknown key `%s`: it belongs to %s; here there are %s", key->shown,
			home, all);
	else
		fail_at(l, key, "unknown key `%s`: here there are %s", key->shown, all);
}

/* A key that the same mapping would have, were its gate another word. */
static bool foreign_key(
	struct loader *l, const struct job *j, enum scope more, const struct node *key)
{
	const char *gate = conf_scopes[j->scope].gate, *owners[SCOPE_COUNT];
	size_t count = 0;

	for (unsigned s = 0; s < SCOPE_COUNT; s++)
		if (scope_adds((enum scope)s, j->scope) &&
			key_find((enum scope)s, key->text) != NULL)
			owners[count++] = conf_scopes[s].when;
	if (count > 0)
		fail_at(l, key, "`%s` is a key of %s %s, and `%s` is of %s %s: %s", key->shown,
			gate, in_words(l, owners, count), j->name->shown, gate,
			conf_scopes[more].when, conf_scopes[more].which);
	return count > 0;
}

static void set_defaults(struct loader *l, enum scope s, void *base)
{
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];
		bool good;

		if (k->scope != s || k->def == NULL || k->def == conf_required)
			continue;
		good = set_text(l, s, k->name, base, (struct mark){0, 0}, span_str(k->def));
		ASSERT(good); /* a default that its own row refuses */
	}
}

/* Also of keys that the gate will shut out: what nobody may set has a default, too. Where it lets
 * in one of several scopes that share a field, its default is set again (read_map). */
static void start_map(struct loader *l, const struct job *j)
{
	if (conf_scopes[j->scope].start != NULL)
		conf_scopes[j->scope].start(j->base);
	for (unsigned s = 0; s < SCOPE_COUNT; s++)
		if (s == j->scope || scope_adds((enum scope)s, j->scope))
			set_defaults(l, (enum scope)s, j->base);
}

/* Is that an error? */
static bool missing(struct loader *l, const struct job *j, const struct key *k)
{
	if (k->type == TYPE_MAP)
		queue_map(l, k->sub, j->base, NULL, NULL);
	else if (k->type == TYPE_NAMED && k->min > 0)
		diag_error(l->d, (struct mark){0, 0}, "`%s` is missing: at least one is needed",
			k->name);
	else if (k->def == conf_required)
		return !fail_at(l, j->name, "`%s` has no `%s`", j->name->shown, k->name);
	return false;
}

static bool set_key(struct loader *l, const struct job *j, const struct key *k)
{
	const struct item *i = j->map != NULL ? node_item(j->map, k->name) : NULL;

	if (i != NULL && k->type == TYPE_LATER)
		return fail_at(l, i->key, "%s", k->text);
	if (i != NULL)
		return conf_types[k->type].set(l, k, j->base, i->value);
	return !missing(l, j, k);
}

/* False: its gate is missing or wrong, so nobody can say what else belongs here. */
static bool read_scope(struct loader *l, const struct job *j, enum scope s)
{
	const char *gate = conf_scopes[s].gate;

	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];

		if (k->scope == s && !set_key(l, j, k) && gate != NULL &&
			strcmp(gate, k->name) == 0)
			return false;
	}
	return true;
}

static void read_map(struct loader *l, const struct job *j)
{
	enum scope more;

	if (!read_scope(l, j, j->scope))
		return;
	more = scope_more(j->scope, j->base);
	if (more != j->scope) {
		set_defaults(l, more, j->base);
		read_scope(l, j, more);
	}
	for (const struct item *i = j->map != NULL ? j->map->first : NULL; i != NULL; i = i->next)
		if (key_find(j->scope, i->key->text) == NULL &&
			key_find(more, i->key->text) == NULL && !foreign_key(l, j, more, i->key))
			unknown_key(l, j, more, i->key);
}

static void run_job(struct loader *l, struct job *j)
{
	const struct scope_row *row = &conf_scopes[j->scope];

	start_map(l, j);
	if (j->map != NULL && j->map->kind != NODE_MAP) {
		if (j->map->bad)
			return;
		if (!node_null(j->map) && j->map->kind == NODE_SCALAR && row->scalar != NULL) {
			row->scalar(l, j->base, j->map);
			return;
		}
		if (!node_null(j->map)) {
			fail_at(l, j->map, "a mapping (`key: value`) is expected here, not a %s",
				j->map->kind == NODE_LIST ? "list" : "single value");
			return;
		}
		j->map = NULL; /* everything in it commented out */
	}
	read_map(l, j);
}

/* ---- the whole ---- */

static void walk(struct loader *l)
{
	queue_map(l, SCOPE_ROOT, l->c, l->root, NULL);
	while (l->jobs != NULL) {
		struct job *j = l->jobs;

		l->jobs = j->next;
		if (l->jobs == NULL)
			l->last_job = NULL;
		run_job(l, j);
		if (j->scope != SCOPE_ROOT)
			continue;
		/* Our own arena: const is for those who get the snapshot. */
		l->listeners = (struct conf_listener *)(uintptr_t)l->c->listeners;
		l->upstreams = (struct conf_upstream *)(uintptr_t)l->c->upstreams;
		l->hooks = (struct conf_hook *)(uintptr_t)l->c->hooks;
		l->upstream_used = arena_alloc(l->tmp, l->c->upstream_count + 1);
		l->hook_used = arena_alloc(l->tmp, l->c->hook_count + 1);
		l->certificate_used = arena_alloc(l->tmp, l->c->certificate_count + 1);
	}
	conf_finish(l);
	conf_check(l);
}

static void drop_bom(struct span *text)
{
	if (text->n >= 3 && memcmp(text->p, "\xef\xbb\xbf", 3) == 0)
		*text = span_drop(*text, 3);
}

/* FNV-1a: whether a file has been edited, not whether somebody forged it. */
static uint64_t hash_of(struct span text)
{
	uint64_t h = 0xcbf29ce484222325;

	for (size_t i = 0; i < text.n; i++)
		h = (h ^ text.p[i]) * 0x100000001b3;
	return h;
}

static struct conf *load(struct diags *d, struct span text)
{
	struct loader l = {.d = d, .tmp = d->tmp, .keep = arena_new()};

	l.c = arena_alloc(l.keep, sizeof(*l.c));
	l.c->arena = l.keep;
	l.c->hash = hash_of(text);
	drop_bom(&text);
	d->source = text;
	if (text.n > CONF_FILE_BYTES_MAX)
		diag_error(d, (struct mark){0, 0}, "larger than 1 MiB");
	else
		l.root = yaml_read(d, text);
	if (l.root != NULL)
		walk(&l);
	if (d->errors == 0)
		return l.c;
	arena_free(l.keep);
	return NULL;
}

struct conf *conf_load_text(const char *name, const char *text, size_t len, FILE *err)
{
	struct diags d = {.tmp = arena_new(), .name = name};
	struct conf *c = load(&d, span_of(text, len));

	diag_print(&d, err);
	arena_free(d.tmp);
	return c;
}

void conf_free(struct conf *c)
{
	if (c != NULL)
		arena_free(c->arena);
}

/* Why the file cannot be trusted or read, or NULL. */
static const char *file_refused(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return strerror(errno);
	if (S_ISDIR(st.st_mode))
		return strerror(EISDIR);
	if (S_ISREG(st.st_mode) && (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return (st.st_mode & S_IWOTH) != 0 ? "anybody could change it: take the write "
						     "permission from group and "
						     "others (chmod go-w)"
						   : "its whole group could change it: take the "
						     "write permission from the "
						     "group (chmod g-w)";
	return NULL;
}

/* Everything up to one octet more than is allowed; NULL or the reason. */
static const char *read_all(int fd, struct arena *tmp, struct span *out)
{
	char *buf = arena_alloc(tmp, CONF_FILE_BYTES_MAX + 16);
	size_t n = 0, max = CONF_FILE_BYTES_MAX + 8;

	while (n < max) {
		ssize_t got = read(fd, buf + n, max - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return strerror(errno);
		if (got == 0)
			break;
		n += (size_t)got;
	}
	*out = span_of(buf, n);
	return NULL;
}

struct conf *conf_load(const char *path, FILE *err)
{
	bool in = strcmp(path, "-") == 0;
	struct diags d = {.tmp = arena_new(), .name = in ? "<stdin>" : path};
	int fd = in ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	const char *why = fd < 0 ? strerror(errno) : in ? NULL : file_refused(fd);
	struct span text = SPAN_NONE;
	struct conf *c = NULL;

	if (why == NULL)
		why = read_all(fd, d.tmp, &text);
	if (why == NULL)
		c = load(&d, text);
	else
		diag_error(&d, (struct mark){0, 0}, "%s", why);
	if (c != NULL && !in)
		c->path = arena_text(c->arena, path, strlen(path));
	if (fd >= 0 && !in)
		close(fd);
	diag_print(&d, err);
	arena_free(d.tmp);
	return c;
}

bool conf_changed(const struct conf *c)
{
	int fd = c->path != NULL ? open(c->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) : -1;
	struct arena *tmp;
	struct span text;
	bool changed;

	if (fd < 0)
		return false;
	tmp = arena_new();
	changed = read_all(fd, tmp, &text) == NULL && hash_of(text) != c->hash;
	arena_free(tmp);
	close(fd);
	return changed;
}
