/* SPDX-License-Identifier: MIT */
/* Heads of messages in a store: the input is one. What can be read can be written, and reads the same. */
#include "fuzz.h"

#include <errno.h>

#include "db/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char body[] = "body";
	struct mqfs_message *message = NULL, *again = NULL;
	struct codec_buffer head = {0};
	int r = codec_decode(data, size, body, sizeof(body), &message);

	if (r < 0) {
		EXPECT(r == -EIO && !message);
		return 0;
	}
	EXPECT(message->body->bytes == sizeof(body));
	expect_readable(message);
	EXPECT(codec_encode(message, &head) == 0);
	EXPECT(codec_decode(head.data, head.bytes, body, sizeof(body), &again) == 0);
	EXPECT(same_message(message, again) && message->delivery_mode == again->delivery_mode);
	mqfs_message_free(again);
	mqfs_message_free(message);
	free(head.data);
	return 0;
}
