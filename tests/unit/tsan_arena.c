/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Linked into the unit tests in TSan builds only. Criterion (through BoxFort) keeps its state in a
 * mapping at an address it draws with rand_r(): 0x200000000000 + n * 2^24, n of 22 bits.
 * ThreadSanitizer (x86-64) lets programs map only a few ranges, so nearly every draw ends in "Could
 * not initialize inheritable arena" or a crash (Criterion issue 274). This rand_r() takes the place
 * of the C library's and draws from 0x551000000000 to 0x551fff000000: allowed by both, and below
 * the addresses the kernel gives to position-independent executables (0x555555554000 and up).
 */
#include <stdlib.h>

int rand_r(unsigned *seed)
{
	*seed = *seed * 1103515245u + 12345u;
	return 0x351000 + (int)(*seed >> 16 & 0xfff);
}
