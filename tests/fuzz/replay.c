/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Runs one fuzzer over files, without libFuzzer: what `make test` does with the corpora and with
 * the inputs that once crashed. Arguments are files; a claim that fails ends the process, and the
 * last line printed names the file. Status 1 when a file cannot be read, 64 without a file.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>

/* Reads all of `path` into a block of exactly its size, as libFuzzer does. */
static bool read_file(const char *path, struct span *out)
{
	FILE *f = fopen(path, "rb");
	uint8_t *p = NULL;
	size_t n = 0, got = 1;
	bool good;

	if (!f)
		return false;
	while (got > 0) {
		p = realloc(p, n + 65536);
		ASSERT(p);
		got = fread(p + n, 1, 65536, f);
		n += got;
	}
	good = ferror(f) == 0;
	fclose(f);
	*out = exact_copy(span_of(p, n));
	free(p);
	return good;
}

int main(int argc, char **argv)
{
	struct span in = SPAN_NONE;
	int status = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: %s FILE...\n", argv[0]);
		return 64;
	}
	for (int i = 1; i < argc; i++) {
		printf("%s\n", argv[i]);
		fflush(stdout);
		if (!read_file(argv[i], &in)) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			status = 1;
			continue;
		}
		LLVMFuzzerTestOneInput(in.p, in.n);
		exact_free(in);
	}
	return status;
}
