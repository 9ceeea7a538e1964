/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * `ringpost doctor`: what this machine offers, what ringpost will use, and the exact barrier when
 * it cannot run. With `probe` it also runs the conformance scripts (ring/probe.h) on this kernel: a
 * second or two. Prints; exit code EXIT_RAN or EXIT_DENIED, and EXIT_FAILED when ringpost can run
 * but a feature that it would use is not safe here.
 */
#ifndef CORE_DOCTOR_H
#define CORE_DOCTOR_H

#include "engine/conf/conf.h"

/* `c` may be NULL: the defaults are planned for. */
int doctor(const struct conf *c, bool probe, FILE *out);

/* One line: which TLS library, and whether it has the CPU's AES instructions. */
void doctor_library(FILE *out);
/* What to say where it has not; NULL where it has. */
const char *doctor_slow_tls(void);

#endif
