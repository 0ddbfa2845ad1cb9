/* SPDX-License-Identifier: MIT */
/*
 * Content headers as they come in a frame: the input is the property flags and what follows them (AMQP 0-9-1, 4.2.6.1).
 * librabbitmq decodes them; what mqfs makes of them is read as every reader does, and goes out and comes in again.
 */
#include "fuzz.h"

#include <errno.h>

#include "amqp/properties.h"

#define CONTENT_HEADER_BYTES 14

/* Unsigned 64-bit values go out as signed ones. */
static void sign(struct mqfs_value *value)
{
	if (value->kind == 'L')
		value->kind = 'l';
	for (size_t i = 0; value->kind == 'A' && i < value->array.count; i++)
		sign(&value->array.values[i]);
	for (size_t i = 0; value->kind == 'F' && i < value->table.count; i++)
		sign(&value->table.fields[i].value);
}

static struct mqfs_message *read_properties(amqp_bytes_t bytes, amqp_pool_t *pool)
{
	struct mqfs_message *message;
	void *decoded;

	if (amqp_decode_properties(AMQP_BASIC_CLASS, pool, bytes, &decoded) < 0)
		return NULL;
	message = mqfs_message_new();
	EXPECT(message && properties_read(decoded, message) == 0);
	return message;
}

static void expect_round(struct mqfs_message *message, amqp_pool_t *pool)
{
	size_t bytes = properties_encoded_bytes(message) - CONTENT_HEADER_BYTES + 2;
	amqp_bytes_t buffer = {.len = bytes, .bytes = malloc(bytes)};
	amqp_basic_properties_t properties;
	struct mqfs_message *again;

	EXPECT(buffer.bytes);
	EXPECT(properties_write(message, pool, &properties) == 0);
	EXPECT(amqp_encode_properties(AMQP_BASIC_CLASS, &properties, buffer) == (int)bytes);
	again = read_properties(buffer, pool);
	EXPECT(again);
	for (size_t i = 0; i < message->headers.count; i++)
		sign(&message->headers.fields[i].value);
	EXPECT(same_message(message, again) && again->delivery_mode == 2);
	mqfs_message_free(again);
	free(buffer.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	amqp_bytes_t bytes = {.len = size, .bytes = malloc(size)};
	struct mqfs_message *message;
	amqp_pool_t pool;

	if (size > 0)
		memcpy(bytes.bytes, data, size);
	init_amqp_pool(&pool, 4096);
	message = read_properties(bytes, &pool);
	if (message) {
		expect_readable(message);
		expect_round(message, &pool);
		mqfs_message_free(message);
	}
	empty_amqp_pool(&pool);
	free(bytes.bytes);
	return 0;
}
