/* SPDX-License-Identifier: MIT */
/* Histories: messages with any properties, and headers that claim to be mqfs's, the broker's, or neither. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {.at = data, .left = size};
	struct mqfs_message *message = input_message(&input);
	struct mqfs_message *copy = mqfs_message_copy(message);

	expect_readable(message);
	EXPECT(copy && same_message(message, copy)); /* reading has changed nothing */
	mqfs_message_free(copy);
	mqfs_message_free(message);
	return 0;
}
