/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_FUZZ_H
#define MQFS_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/message.h>

/*
 * What the fuzz targets have in common. A target is a file fuzz_NAME.c with one function, LLVMFuzzerTestOneInput, which
 * is called for one input after another and ends the process when something is wrong: a crash, a report of a
 * sanitizer, or an EXPECT that is not met. With libFuzzer in front (./dev fuzz) the inputs are mutated for ever; with
 * replay.c in front, in the test run, they are the files of corpus/NAME.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPECT(condition)                                                                                              \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s: expected: %s\n", __FILE__, __LINE__, __func__, #condition);        \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

/*
 * An input read piece by piece (input.c). Past its end everything is 0 and empty, so that every input means
 * something, and a mutation in one place leaves the rest as it was.
 */
struct input {
	const uint8_t *at;
	size_t left;
};

uint64_t input_number(struct input *input, unsigned bytes); /* big-endian */
uint8_t input_byte(struct input *input);
unsigned input_below(struct input *input, unsigned limit); /* from one byte; 0 <= it < limit <= 256 */

/* Any bytes, with a NUL behind them; the caller frees them. A length byte goes before; from 240 on it stands for
 * kilobytes of a repeated pattern, since no mutation would ever write so much. */
char *input_bytes(struct input *input, size_t *ret_bytes);
/* The same up to the first NUL inside. */
char *input_text(struct input *input);

/* A header's value of any kind, as deep as the input says and depth allows. */
void input_value(struct input *input, unsigned depth, struct mqfs_value *ret_value);
void input_headers(struct input *input, struct mqfs_table *ret_headers);
/* All properties, headers that often are those of mqfs and of dead letters, and a body. */
struct mqfs_message *input_message(struct input *input);

/* Equal in everything (compare.c); reals that are no numbers are equal. The delivery mode is not looked at. */
bool same_value(const struct mqfs_value *a, const struct mqfs_value *b);
bool same_table(const struct mqfs_table *a, const struct mqfs_table *b);
bool same_message(const struct mqfs_message *a, const struct mqfs_message *b);

/* What every reader of a message does with it (reading.c): history, meta.json in every place, names, xattrs, copies. */
void expect_readable(const struct mqfs_message *message);

#endif
