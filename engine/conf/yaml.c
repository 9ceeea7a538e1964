/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libyaml's events as a small tree: scalars, lists, mappings, each with its place in the file.
 *
 * Stops the file (fatal): a syntax error (libyaml's own words and place), a second document, a key
 * that is not a word, more depth, nodes, anchors or keys than conf_int.h allows, an alias inside
 * its own anchor. Reported and read on: a key that is there twice, an expansion that fails, a tag.
 * An alias counts as many nodes as it stands for, so a "billion laughs" ends at CONF_NODES_MAX.
 */
#include "engine/conf/conf_int.h"

#include <yaml.h>

struct frame {
	struct node *box; /* a list or a mapping whose end has not come */
	struct node *key; /* read, its value is next */
	bool drop;	  /* that key was there before */
};

struct reader {
	struct diags *d;
	struct node *root;
	struct frame stack[CONF_DEPTH_MAX];
	unsigned depth;
	struct {
		const char *name;
		struct node *node;
	} anchors[CONF_ANCHORS_MAX];
	unsigned anchor_count;
	uint32_t nodes;
	unsigned documents;
};

static struct mark mark_of(yaml_mark_t m)
{
	return (struct mark){(uint32_t)m.line + 1, (uint32_t)m.column + 1};
}

struct item *node_item(const struct node *map, const char *key)
{
	if (map == NULL || map->kind != NODE_MAP)
		return NULL;
	for (struct item *i = map->first; i != NULL; i = i->next)
		if (strcmp(i->key->text, key) == 0)
			return i;
	return NULL;
}

struct node *node_get(const struct node *map, const char *key)
{
	struct item *i = node_item(map, key);

	return i != NULL ? i->value : NULL;
}

bool node_null(const struct node *n)
{
	return n->kind == NODE_SCALAR && n->plain && (n->len == 0 || strcmp(n->text, "~") == 0);
}

/* All fatal errors go through here. */
static bool stop(struct reader *r, struct mark at, const char *message)
{
	diag_error(r->d, at, "%s", message);
	return false;
}

static bool count_nodes(struct reader *r, struct mark at, uint32_t n)
{
	if (n > CONF_NODES_MAX - r->nodes)
		return stop(r, at,
			"the file has too many values (aliases count as often as they are used)");
	r->nodes += n;
	return true;
}

static bool wants_key(const struct reader *r)
{
	const struct frame *f = r->depth > 0 ? &r->stack[r->depth - 1] : NULL;

	return f != NULL && f->box->kind == NODE_MAP && f->key == NULL;
}

static bool take_key(struct reader *r, struct frame *f, struct node *key)
{
	struct item *before;

	if (key->kind != NODE_SCALAR)
		return stop(r, key->at, "a key must be a single word");
	if (f->box->count >= CONF_MAP_KEYS_MAX)
		return stop(r, key->at, "too many keys in one mapping");
	before = node_item(f->box, key->text);
	f->key = key;
	f->drop = before != NULL;
	if (before != NULL)
		diag_error(r->d, key->at, "duplicate key `%s`: it is there already in line %u",
			key->shown, before->key->at.line);
	return true;
}

/* Puts a finished node where it belongs. */
static bool place(struct reader *r, struct node *n)
{
	struct frame *f = r->depth > 0 ? &r->stack[r->depth - 1] : NULL;
	struct item *i;

	if (f == NULL) {
		r->root = n;
		return true;
	}
	if (wants_key(r))
		return take_key(r, f, n);
	if (!f->drop) {
		i = arena_alloc(r->d->tmp, sizeof(*i));
		i->key = f->key;
		i->value = n;
		if (f->box->last != NULL)
			f->box->last->next = i;
		else
			f->box->first = i;
		f->box->last = i;
		f->box->count++;
		f->box->weight += n->weight;
	}
	f->key = NULL;
	f->drop = false;
	return true;
}

static bool anchor(struct reader *r, const yaml_char_t *name, struct node *n)
{
	if (name == NULL)
		return true;
	if (r->anchor_count == CONF_ANCHORS_MAX)
		return stop(r, n->at, "too many anchors");
	r->anchors[r->anchor_count].name =
		arena_text(r->d->tmp, (const char *)name, strlen((const char *)name));
	r->anchors[r->anchor_count++].node = n;
	return true;
}

static struct node *node_new(struct reader *r, enum node_kind kind, struct mark at)
{
	struct node *n = arena_alloc(r->d->tmp, sizeof(*n));

	n->kind = kind;
	n->at = at;
	n->weight = 1;
	n->text = n->shown = "";
	return n;
}

static bool refuse_tag(struct reader *r, struct mark at, const yaml_char_t *tag)
{
	if (tag != NULL)
		diag_error(r->d, at, "tags (`%s`) have no meaning here",
			text_shown(r->d->tmp, span_str((const char *)tag)));
	return tag != NULL;
}

static bool on_scalar(struct reader *r, const yaml_event_t *ev)
{
	struct mark at = mark_of(ev->start_mark);
	struct node *n = node_new(r, NODE_SCALAR, at);
	struct span text = span_of(ev->data.scalar.value, ev->data.scalar.length);

	if (!count_nodes(r, at, 1))
		return false;
	n->bad = refuse_tag(r, at, ev->data.scalar.tag);
	n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	n->shown = text_shown(r->d->tmp, text);
	if (text.n > 0 && memchr(text.p, 0, text.n) != NULL)
		return stop(r, at, "a value cannot hold a NUL octet");
	if (!wants_key(r) && memmem(text.p, text.n, "${", 2) != NULL)
		n->text = conf_expand(r->d, at, text, &n->len);
	else
		n->text = arena_text(r->d->tmp, (const char *)text.p, n->len = text.n);
	if (n->text == NULL) {
		n->bad = true;
		n->text = "";
	}
	return anchor(r, ev->data.scalar.anchor, n) && place(r, n);
}

static bool on_open(struct reader *r, const yaml_event_t *ev)
{
	bool map = ev->type == YAML_MAPPING_START_EVENT;
	struct mark at = mark_of(ev->start_mark);
	struct node *n = node_new(r, map ? NODE_MAP : NODE_LIST, at);

	if (!count_nodes(r, at, 1))
		return false;
	if (wants_key(r))
		return stop(r, at, "a key must be a single word");
	if (r->depth == CONF_DEPTH_MAX)
		return stop(r, at, "mappings and lists are nested too deeply");
	refuse_tag(r, at, map ? ev->data.mapping_start.tag : ev->data.sequence_start.tag);
	n->open = true;
	r->stack[r->depth++] = (struct frame){.box = n};
	return anchor(r, map ? ev->data.mapping_start.anchor : ev->data.sequence_start.anchor, n);
}

static bool on_close(struct reader *r)
{
	struct node *n;

	ASSERT(r->depth > 0);
	n = r->stack[--r->depth].box;
	n->open = false;
	return place(r, n);
}

static bool on_alias(struct reader *r, const yaml_event_t *ev)
{
	struct mark at = mark_of(ev->start_mark);
	const char *name = (const char *)ev->data.alias.anchor;

	if (wants_key(r))
		return stop(r, at, "a key must be a single word, not an alias");
	for (unsigned i = r->anchor_count; i-- > 0;) {
		struct node *n = r->anchors[i].node;

		if (strcmp(r->anchors[i].name, name) != 0)
			continue;
		if (n->open)
			return stop(r, at, "an alias cannot stand inside its own anchor");
		return count_nodes(r, at, n->weight) && place(r, n);
	}
	diag_error(r->d, at, "no anchor `&%s` comes before this alias",
		text_shown(r->d->tmp, span_str(name)));
	return false;
}

static bool on_event(struct reader *r, const yaml_event_t *ev)
{
	switch (ev->type) {
	case YAML_DOCUMENT_START_EVENT:
		return r->documents++ == 0 ||
		       stop(r, mark_of(ev->start_mark),
			       "a second YAML document: one file is one configuration");
	case YAML_SCALAR_EVENT:
		return on_scalar(r, ev);
	case YAML_ALIAS_EVENT:
		return on_alias(r, ev);
	case YAML_SEQUENCE_START_EVENT:
	case YAML_MAPPING_START_EVENT:
		return on_open(r, ev);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		return on_close(r);
	default:
		return true;
	}
}

/* The reader knows only an offset: count what it counts. */
static struct mark mark_at_offset(struct span text, size_t off)
{
	struct mark at = {1, 1};

	for (size_t i = 0; i < off && i < text.n; i++) {
		if (text.p[i] == '\n')
			at = (struct mark){at.line + 1, 1};
		else if ((text.p[i] & 0xc0) != 0x80)
			at.col++;
	}
	return at;
}

/* libyaml calls many things "a character that cannot start any token". */
static const char *hint(const yaml_parser_t *p, struct span text)
{
	size_t off = 0;

	if (p->error != YAML_SCANNER_ERROR || strstr(p->problem, "cannot start any token") == NULL)
		return "";
	/* The mark counts characters, the text octets. */
	for (size_t chars = p->problem_mark.index; off < text.n; off++)
		if ((text.p[off] & 0xc0) != 0x80 && chars-- == 0)
			break;
	if (off < text.n && text.p[off] == '\t')
		return ": YAML wants blanks here, not a tab";
	return ": put it into quotes (values that start with @, %, ` must be)";
}

static void syntax_error(struct reader *r, const yaml_parser_t *p, struct span text)
{
	const char *problem = p->problem != NULL ? p->problem : "the file cannot be read";

	if (p->error == YAML_READER_ERROR) {
		diag_error(r->d, mark_at_offset(text, p->problem_offset), "not valid YAML text: %s",
			problem);
		return;
	}
	if (p->context != NULL)
		diag_error(r->d, mark_of(p->problem_mark), "YAML syntax: %s %s (from line %lu)%s",
			p->context, problem, (unsigned long)p->context_mark.line + 1,
			hint(p, text));
	else
		diag_error(r->d, mark_of(p->problem_mark), "YAML syntax: %s%s", problem,
			hint(p, text));
}

struct node *yaml_read(struct diags *d, struct span text)
{
	struct reader *r = arena_alloc(d->tmp, sizeof(*r));
	yaml_parser_t parser;
	yaml_event_t ev;
	bool on = true, ended = false;

	r->d = d;
	if (!yaml_parser_initialize(&parser)) {
		stop(r, (struct mark){0, 0}, "no memory for the YAML parser");
		return NULL;
	}
	yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&parser, text.p, text.n);
	while (on && !ended) {
		if (!yaml_parser_parse(&parser, &ev)) {
			syntax_error(r, &parser, text);
			on = false;
			break;
		}
		ended = ev.type == YAML_STREAM_END_EVENT;
		on = on_event(r, &ev);
		yaml_event_delete(&ev);
	}
	yaml_parser_delete(&parser);
	if (on && (r->root == NULL || node_null(r->root)))
		on = stop(r, (struct mark){0, 0},
			"the file is empty: `listeners` and `upstreams` are needed");
	return on ? r->root : NULL;
}
