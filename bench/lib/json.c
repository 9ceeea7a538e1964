/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * RFC 8259 output. No failure of its own.
 */
#include "bench/lib/json.h"

#include <inttypes.h>

static void quoted(FILE *f, struct span s)
{
	putc('"', f);
	for (size_t i = 0; i < s.n; i++) {
		uint8_t c = s.p[i];

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 32 || c > 126)
			fprintf(f, "\\u%04x", c);
		else
			putc(c, f);
	}
	putc('"', f);
}

static void lead(struct json *j, const char *key)
{
	if (j->comma)
		putc(',', j->f);
	j->comma = true;
	if (key) {
		quoted(j->f, span_str(key));
		putc(':', j->f);
	}
}

void json_open(struct json *j, FILE *f, const char *key)
{
	if (f) {
		j->f = f;
		j->comma = false;
	} else {
		lead(j, key);
	}
	putc('{', j->f);
	j->comma = false;
}

void json_close(struct json *j)
{
	putc('}', j->f);
	j->comma = true;
}

void json_list(struct json *j, const char *key)
{
	lead(j, key);
	putc('[', j->f);
	j->comma = false;
}

void json_list_end(struct json *j)
{
	putc(']', j->f);
	j->comma = true;
}

void json_str(struct json *j, const char *key, struct span value)
{
	lead(j, key);
	quoted(j->f, value);
}

void json_u64(struct json *j, const char *key, uint64_t value)
{
	lead(j, key);
	fprintf(j->f, "%" PRIu64, value);
}

void json_hex(struct json *j, const char *key, uint64_t value)
{
	lead(j, key);
	fprintf(j->f, "\"%016" PRIx64 "\"", value);
}

void json_num(struct json *j, const char *key, double value)
{
	lead(j, key);
	fprintf(j->f, "%.6f", value);
}
