/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See store.h.
 */
#include "bench/lib/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_BYTES 40

static void name_of(uint64_t number, const char *suffix, char *out)
{
	snprintf(out, NAME_BYTES, "%08" PRIu64 ".%s", number, suffix);
}

/* One above the highest number in use. */
static uint64_t first_free(int dir)
{
	uint64_t high = 0;
	int copy = dup(dir);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;

	if (!d) {
		if (copy >= 0)
			close(copy);
		return 1;
	}
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		char *end;
		uint64_t n = strtoull(e->d_name, &end, 10);

		if (end != e->d_name && *end == '.')
			high = MAX_OF(high, n);
	}
	closedir(d);
	return high + 1;
}

bool store_open(struct store *s, const char *path)
{
	if (mkdir(path, 0777) != 0 && errno != EEXIST)
		return false;
	s->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir < 0)
		return false;
	s->next = first_free(s->dir);
	return true;
}

void store_close(struct store *s)
{
	close(s->dir);
	s->dir = -1;
}

void store_begin(struct store *s, struct store_file *f)
{
	char name[NAME_BYTES];

	f->number = s->next++;
	name_of(f->number, "part", name);
	f->fd = openat(s->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	f->failed = f->fd < 0;
}

static bool write_all(int fd, struct span piece)
{
	while (piece.n) {
		ssize_t n = write(fd, piece.p, piece.n);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		piece = span_drop(piece, (size_t)n);
	}
	return true;
}

void store_write(struct store_file *f, struct span piece)
{
	if (!f->failed)
		f->failed = !write_all(f->fd, piece);
}

static bool write_envelope(struct store *s, uint64_t number, struct span envelope)
{
	char name[NAME_BYTES];

	name_of(number, "env", name);
	int fd = openat(s->dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		return false;
	bool good = write_all(fd, envelope);
	if (close(fd) != 0)
		good = false;
	if (!good)
		unlinkat(s->dir, name, 0);
	return good;
}

bool store_commit(struct store *s, struct store_file *f, struct span envelope)
{
	char part[NAME_BYTES], done[NAME_BYTES];

	if (f->failed || !write_envelope(s, f->number, envelope)) {
		store_abort(s, f);
		return false;
	}
	name_of(f->number, "part", part);
	name_of(f->number, "eml", done);
	int closed = close(f->fd);
	f->fd = -1;
	if (closed == 0 && renameat(s->dir, part, s->dir, done) == 0)
		return true;
	unlinkat(s->dir, part, 0);
	name_of(f->number, "env", done);
	unlinkat(s->dir, done, 0);
	return false;
}

void store_abort(struct store *s, struct store_file *f)
{
	char name[NAME_BYTES];

	if (f->fd < 0)
		return;
	close(f->fd);
	f->fd = -1;
	name_of(f->number, "part", name);
	unlinkat(s->dir, name, 0);
}
