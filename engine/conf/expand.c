/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ${env:NAME}, ${env:NAME:-default} and ${file:PATH} in a value; $${ stands for a plain ${.
 * As in a shell, :- also serves for a variable that is set but empty. What is brought in is not
 * expanded again. Of a file the line ends at its end are dropped.
 *
 * Failure modes, each an error at the value: an unknown variable without a default, a file that
 * cannot be read, is none (a device, a pipe) or is larger than CONF_INSERT_BYTES_MAX, a NUL octet,
 * a
 * ${ without its }.
 */
#include "engine/conf/conf_int.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct expansion {
	struct diags *d;
	struct mark at;
	char *out; /* room for `max`, grows in the temporary arena */
	size_t n, max;
	bool failed;
};

static void append(struct expansion *e, const char *p, size_t n)
{
	if (n == 0)
		return;
	if (e->n + n > CONF_FILE_BYTES_MAX) {
		if (!e->failed)
			diag_error(e->d, e->at, "the value is too long after expansion");
		e->failed = true;
		return;
	}
	if (e->n + n >= e->max) {
		size_t max = 2 * (e->n + n) + 64;
		char *grown = arena_alloc(e->d->tmp, max);

		if (e->n > 0)
			memcpy(grown, e->out, e->n);
		e->out = grown;
		e->max = max;
	}
	memcpy(e->out + e->n, p, n);
	e->n += n;
}

static void expand_env(struct expansion *e, struct span arg)
{
	const char *text = arena_text(e->d->tmp, (const char *)arg.p, arg.n);
	const char *dash = strstr(text, ":-");
	const char *name = dash != NULL ? arena_text(e->d->tmp, text, (size_t)(dash - text)) : text;
	const char *value = name[0] != 0 ? getenv(name) : NULL;

	if (dash != NULL && (value == NULL || value[0] == 0))
		value = dash + 2;
	if (value == NULL) {
		diag_error(e->d, e->at,
			"the environment variable `%s` is not set (${env:%s:-something} gives a "
			"default)",
			text_shown(e->d->tmp, span_str(name)),
			text_shown(e->d->tmp, span_str(name)));
		e->failed = true;
		return;
	}
	append(e, value, strlen(value));
}

/* The content in *out, of the temporary arena; or the reason. */
static const char *slurp(struct arena *tmp, const char *path, struct span *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	const char *why = NULL;
	char *buf = NULL;
	size_t n = 0;
	ssize_t got = 1;

	if (fd < 0)
		return strerror(errno);
	if (fstat(fd, &st) != 0)
		why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		why = "not a regular file";
	else
		buf = arena_alloc(tmp, CONF_INSERT_BYTES_MAX + 1);
	while (why == NULL && got > 0 && n <= CONF_INSERT_BYTES_MAX) {
		got = read(fd, buf + n, CONF_INSERT_BYTES_MAX + 1 - n);
		if (got < 0 && errno != EINTR)
			why = strerror(errno);
		n += got > 0 ? (size_t)got : 0;
		got = got < 0 ? 1 : got;
	}
	close(fd);
	if (why == NULL && n > CONF_INSERT_BYTES_MAX)
		why = "larger than 64 KiB";
	if (why == NULL && memchr(buf, 0, n) != NULL)
		why = "it holds a NUL octet";
	*out = span_of(buf, n);
	return why;
}

static void expand_file(struct expansion *e, struct span arg)
{
	const char *path = arena_text(e->d->tmp, (const char *)arg.p, arg.n);
	struct span content = SPAN_NONE;
	const char *why = slurp(e->d->tmp, path, &content);

	if (why != NULL) {
		diag_error(e->d, e->at, "cannot read the file `%s`: %s", text_shown(e->d->tmp, arg),
			why);
		e->failed = true;
		return;
	}
	while (content.n > 0 && strchr("\r\n", content.p[content.n - 1]) != NULL)
		content.n--;
	append(e, (const char *)content.p, content.n);
}

static const struct {
	const char *prefix;
	void (*expand)(struct expansion *e, struct span arg);
} sources[] = {
	{"env:", expand_env},
	{"file:", expand_file},
};

/* `inside` is what stands between the braces. */
static void expand_one(struct expansion *e, struct span inside)
{
	for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
		size_t n = strlen(sources[i].prefix);

		if (inside.n >= n && memcmp(inside.p, sources[i].prefix, n) == 0) {
			sources[i].expand(e, span_drop(inside, n));
			return;
		}
	}
	diag_error(e->d, e->at,
		"`${%s}`: only ${env:NAME} and ${file:PATH} expand ($${ is a plain ${)",
		text_shown(e->d->tmp, inside));
	e->failed = true;
}

const char *conf_expand(struct diags *d, struct mark at, struct span in, size_t *len)
{
	struct expansion e = {.d = d, .at = at, .out = (char *)arena_alloc(d->tmp, 1), .max = 1};
	const uint8_t *p = in.p, *end = in.p + in.n;

	while (p < end && !e.failed) {
		size_t left = (size_t)(end - p);
		const uint8_t *close;

		if (left >= 3 && memcmp(p, "$${", 3) == 0) {
			append(&e, "${", 2);
			p += 3;
		} else if (left >= 2 && memcmp(p, "${", 2) == 0) {
			close = memchr(p, '}', left);
			if (close == NULL) {
				diag_error(d, at, "`${` without its `}`");
				return NULL;
			}
			expand_one(&e, span_of(p + 2, (size_t)(close - p - 2)));
			p = close + 1;
		} else {
			append(&e, (const char *)p++, 1);
		}
	}
	*len = e.n;
	return e.failed ? NULL : arena_text(d->tmp, e.out, e.n);
}
