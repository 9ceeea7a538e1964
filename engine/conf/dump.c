/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A snapshot as YAML that loads again to the same snapshot (ringpost -T), and the reference of all
 * keys as Markdown (docs/CONFIGURATION.md). Both follow the schema table, in its order.
 *
 * The levels of a file are fixed (root, section, entry, its mappings), so each has its function.
 */
#include "engine/conf/conf_int.h"

/* ---- dump ---- */

/* Fields that are pointers and may be unset; all others always hold something. */
static bool unset(const struct key *k, const void *base)
{
	switch (k->type) {
	case TYPE_USER:
	case TYPE_SOURCE:
	case TYPE_TEXT:
	case TYPE_FILE:
	case TYPE_CERTIFICATE:
	case TYPE_CERTIFICATES:
	case TYPE_HOST:
	case TYPE_PINS:
	case TYPE_CIPHERS:
	case TYPE_GROUPS:
		return *(const void *const *)field_const(k, base) == NULL;
	default:
		return false;
	}
}

/* The keys of a scope that are no mappings. */
static void dump_values(enum scope s, const void *base, int indent, FILE *out)
{
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];

		if (k->scope != s || conf_types[k->type].put == NULL || unset(k, base))
			continue;
		fprintf(out, "%*s%s: ", indent, "", k->name);
		conf_types[k->type].put(out, k, base, indent + 2);
	}
}

/* And its mappings, which hold only values. */
static void dump_scope(enum scope s, const void *base, int indent, FILE *out)
{
	dump_values(s, base, indent, out);
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];

		if (k->scope != s || k->type != TYPE_MAP)
			continue;
		fprintf(out, "%*s%s:\n", indent, "", k->name);
		dump_values(k->sub, base, indent + 2, out);
	}
}

static void dump_entry(enum scope s, const void *base, int indent, FILE *out)
{
	enum scope more = scope_more(s, base);

	dump_scope(s, base, indent, out);
	if (more != s)
		dump_scope(more, base, indent, out);
}

static void dump_named(const struct key *k, const void *base, FILE *out)
{
	const char *v = *(const char *const *)field_const(k, base);
	uint32_t count = *(const uint32_t *)(const void *)((const char *)base + k->off2);

	if (count == 0)
		return;
	fprintf(out, "\n%s:\n", k->name);
	for (uint32_t i = 0; i < count; i++) {
		const char *one = v + (size_t)i * k->size;

		fprintf(out, "  %s:\n", *(const char *const *)(const void *)one);
		dump_entry(k->sub, one, 4, out);
	}
}

void conf_dump(const struct conf *c, FILE *out)
{
	dump_entry(SCOPE_ROOT, c, 0, out);
	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].scope == SCOPE_ROOT && conf_keys[i].type == TYPE_NAMED)
			dump_named(&conf_keys[i], c, out);
}

/* ---- reference ---- */

static const char intro[] =
	"# Configuration reference\n"
	"\n"
	"<!-- Made from engine/conf/schema.def (conf_reference); a test compares. Edit the table. "
	"-->\n"
	"\n"
	"The file is YAML, at most 1 MiB. The smallest useful one:\n"
	"\n"
	"```yaml\n"
	"listeners:\n"
	"  in: {bind: 127.0.0.1:2525, upstream: mta}\n"
	"upstreams:\n"
	"  mta: {servers: 10.0.0.10:25}\n"
	"```\n"
	"\n"
	"`ringpost check` reads a file and reports every error in it, each with its line and "
	"column; an\n"
	"error anywhere refuses the whole file. More files to start from are in `docs/examples/`.\n"
	"\n"
	"- Where a list is meant, a single value serves as a list of one.\n"
	"- `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}` expand in every value (not in "
	"keys);\n"
	"  `$${` is a plain `${`. A default also serves for a variable that is set but empty; line "
	"ends at\n"
	"  the end of a file are dropped. A relative path counts from the working directory.\n"
	"- A key that is there twice is an error, and so are a second YAML document, tags and "
	"merge keys.\n"
	"  Anchors and aliases can be used.\n"
	"- Quote what YAML would take for something else: `\"[::1]:25\"`, `\"@example.org\"`, "
	"`\"*\"`.\n"
	"- The file may be writable by its owner alone.\n"
	"- A client on a Unix socket counts as 127.0.0.1 where networks are compared.\n";

static const char *bound_text(const struct key *k, uint64_t v, char buf[VALUE_TEXT_BYTES])
{
	switch (k->type) {
	case TYPE_SIZE:
		return size_text(v, buf);
	case TYPE_DURATION:
		return duration_text(v, buf);
	default:
		return count_text(v, buf);
	}
}

static bool is_list(enum type t)
{
	return t == TYPE_NETS || t == TYPE_BIND || t == TYPE_SERVERS || t == TYPE_HOOKS ||
	       t == TYPE_PATTERNS || t == TYPE_NAMES || t == TYPE_OPTIONS || t == TYPE_NAMED ||
	       t == TYPE_CERTIFICATES || t == TYPE_PINS;
}

static void print_bounds(const struct key *k, FILE *out)
{
	char lo[VALUE_TEXT_BYTES], hi[VALUE_TEXT_BYTES];

	if (k->max == 0 || k->type == TYPE_WORDS)
		return;
	if (is_list(k->type)) {
		fprintf(out, "at most %s", count_text(k->max, hi));
		return;
	}
	fprintf(out, "%s to %s", bound_text(k, k->min, lo), bound_text(k, k->max, hi));
	if (k->unit[0] != 0)
		fprintf(out, " %s", k->unit);
}

static void print_words(const struct key *k, FILE *out)
{
	const char *comma = "";

	for (const struct word *w = k->words; w->word != NULL; w++) {
		if (w->later != NULL)
			continue;
		fprintf(out, "%s`%s`", comma, w->word);
		comma = ", ";
	}
}

static void print_default(const struct key *k, FILE *out)
{
	if (k->def == conf_required || (k->type == TYPE_NAMED && k->min > 0))
		fputs("required", out);
	else if (k->def != NULL)
		fprintf(out, "`%s`", k->def[0] != 0 ? k->def : "\"\"");
}

static void print_row(const struct key *k, FILE *out)
{
	fprintf(out, "| `%s` | ", k->name);
	if (k->type == TYPE_WORDS)
		fputs("list of ", out);
	if (k->words != NULL)
		print_words(k, out);
	else
		fputs(conf_types[k->type].name, out);
	fputs(" | ", out);
	print_default(k, out);
	fputs(" | ", out);
	print_bounds(k, out);
	fprintf(out, " | %s |\n", k->text);
}

static void print_scope(enum scope s, FILE *out)
{
	const struct scope_row *row = &conf_scopes[s];

	fprintf(out, "\n## %s", s == SCOPE_ROOT ? "Top of the file" : row->path);
	if (row->when != NULL)
		fprintf(out, ", %s: %s", conf_scopes[row->within].gate, row->when);
	fputs("\n\n", out);
	fputs("| key | value | default | bounds | meaning |\n|---|---|---|---|---|\n", out);
	for (size_t i = 0; i < conf_key_count; i++)
		if (conf_keys[i].scope == s && conf_keys[i].type != TYPE_LATER)
			print_row(&conf_keys[i], out);
}

static void print_types(FILE *out)
{
	fputs("\n## How values are written\n\n| value | for example |\n|---|---|\n", out);
	for (unsigned t = 0; t < TYPE_KINDS; t++) {
		bool before = false;

		/* Two types may share a name: both rows tell something. */
		for (unsigned i = 0; i < t; i++)
			before |= strcmp(conf_types[i].written, conf_types[t].written) == 0;
		if (conf_types[t].written[0] != 0 && !before)
			fprintf(out, "| %s | %s |\n", conf_types[t].name, conf_types[t].written);
	}
	fputs("\nIn counts `k` is 1,000 and `m` 1,000,000; in sizes `k` is 1,024, `m` and `g` its "
	      "powers.\n",
		out);
}

static void print_extensions(FILE *out)
{
	static const char *const policies[] = {
		[EXT_PASS] = "pass", [EXT_STRIP] = "strip, always", [EXT_OWN] = "ringpost's own"};

	fputs("\n## Keywords in `extensions`\n\n"
	      "What is not in this list is `pass`, unless `\"*\": strip` is written.\n\n"
	      "| keyword | default | why |\n|---|---|---|\n",
		out);
	for (unsigned e = 0; e < EXT_OTHER; e++)
		fprintf(out, "| %s | %s | %s |\n", ext_keywords[e],
			policies[ext_default((enum smtp_ext)e)], ext_reason((enum smtp_ext)e));
}

static void print_later(FILE *out)
{
	fputs("\n## Known, but not in this version\n\n", out);
	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];
		const char *path = conf_scopes[k->scope].path;

		if (k->type == TYPE_LATER)
			fprintf(out, "- `%s%s%s`: %s\n", path, path[0] != 0 ? "." : "", k->name,
				k->text);
	}
}

void conf_reference(FILE *out)
{
	fputs(intro, out);
	for (unsigned s = 0; s < SCOPE_COUNT; s++)
		print_scope((enum scope)s, out);
	print_types(out);
	print_extensions(out);
	print_later(out);
}
