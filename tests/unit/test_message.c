/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include <errno.h>

static void body_grows_and_fills_gaps(void **state)
{
	struct mqfs_body *body = mqfs_body_new();

	(void)state;
	assert_int_equal(body->bytes, 0);
	assert_int_equal(mqfs_body_write(body, 0, "hello", 5), 0);
	assert_int_equal(mqfs_body_write(body, 3, "p!", 2), 0);
	assert_int_equal(body->bytes, 5);
	assert_memory_equal(body->data, "help!", 5);
	assert_int_equal(mqfs_body_write(body, 1000, "end", 3), 0);
	assert_int_equal(body->bytes, 1003);
	for (size_t i = 5; i < 1000; i++)
		assert_int_equal(body->data[i], 0);
	assert_memory_equal(body->data + 1000, "end", 3);
	mqfs_body_unref(body);
}

static void body_gap_forgets_what_was_cut(void **state)
{
	struct mqfs_body *body = mqfs_body_new();

	(void)state;
	assert_int_equal(mqfs_body_write(body, 0, "secret", 6), 0);
	assert_int_equal(mqfs_body_truncate(body, 1), 0);
	assert_int_equal(body->bytes, 1);
	assert_int_equal(mqfs_body_truncate(body, 4), 0);
	assert_memory_equal(body->data, "s\0\0\0", 4);
	assert_int_equal(mqfs_body_truncate(body, 0), 0);
	assert_int_equal(mqfs_body_write(body, 3, "x", 1), 0);
	assert_memory_equal(body->data, "\0\0\0x", 4);
	mqfs_body_unref(body);
}

static void body_of_many_writes(void **state)
{
	struct mqfs_body *body = mqfs_body_new();

	(void)state;
	for (unsigned i = 0; i < 100000; i++)
		assert_int_equal(mqfs_body_write(body, body->bytes, &(unsigned char){(unsigned char)(i % 251)}, 1), 0);
	assert_int_equal(body->bytes, 100000);
	assert_true(body->capacity < 200001);
	for (unsigned i = 0; i < 100000; i++)
		assert_int_equal(body->data[i], i % 251);
	mqfs_body_unref(body);
}

static void body_refuses_what_cannot_fit(void **state)
{
	struct mqfs_body *body = mqfs_body_new();

	(void)state;
	assert_int_equal(mqfs_body_write(body, 0, "keep", 4), 0);
	assert_int_equal(mqfs_body_write(body, SIZE_MAX, "xy", 2), -ENOMEM);
	assert_int_equal(mqfs_body_write(body, SIZE_MAX - 2, "xy", 2), -ENOMEM);
	assert_int_equal(mqfs_body_truncate(body, SIZE_MAX), -ENOMEM);
	assert_int_equal(mqfs_body_write(body, SIZE_MAX, "", 0), 0); /* nothing is nowhere */
	assert_int_equal(body->bytes, 4);
	assert_memory_equal(body->data, "keep", 4);
	mqfs_body_unref(body);
}

static void body_is_counted(void **state)
{
	struct mqfs_body *body = mqfs_body_new();

	(void)state;
	assert_ptr_equal(mqfs_body_ref(body), body);
	assert_int_equal(atomic_load(&body->references), 2);
	assert_null(mqfs_body_unref(body));
	assert_int_equal(atomic_load(&body->references), 1);
	assert_null(mqfs_body_unref(body));
	assert_null(mqfs_body_unref(NULL));
}

static void new_message_is_empty(void **state)
{
	struct mqfs_message *message = mqfs_message_new();

	(void)state;
	assert_int_equal(message->priority, -1);
	assert_int_equal(message->delivery_mode, 2);
	assert_int_equal(message->timestamp, 0);
	assert_null(message->message_id);
	assert_null(message->user_id);
	assert_int_equal(message->headers.count, 0);
	assert_int_equal(message->body->bytes, 0);
	assert_null(mqfs_message_free(message));
	assert_null(mqfs_message_free(NULL));
}

static void sets_strings(void **state)
{
	char *slot = NULL;

	(void)state;
	assert_int_equal(mqfs_message_set_string(&slot, "one"), 0);
	assert_string_equal(slot, "one");
	assert_int_equal(mqfs_message_set_string(&slot, slot + 1), 0); /* from itself */
	assert_string_equal(slot, "ne");
	assert_int_equal(mqfs_message_set_string(&slot, NULL), 0);
	assert_null(slot);
}

static const size_t string_offsets[] = {
    offsetof(struct mqfs_message, content_type),   offsetof(struct mqfs_message, content_encoding),
    offsetof(struct mqfs_message, correlation_id), offsetof(struct mqfs_message, reply_to),
    offsetof(struct mqfs_message, expiration),     offsetof(struct mqfs_message, message_id),
    offsetof(struct mqfs_message, type),           offsetof(struct mqfs_message, user_id),
    offsetof(struct mqfs_message, app_id),
};

#define STRINGS (sizeof(string_offsets) / sizeof(string_offsets[0]))

static char **string_at(struct mqfs_message *message, size_t i)
{
	return (char **)((char *)message + string_offsets[i]);
}

static void copies_all_but_the_body(void **state)
{
	struct mqfs_message *message = unit_message("body"), *copy;

	(void)state;
	for (size_t i = 0; i < STRINGS; i++)
		mqfs_message_set_string(string_at(message, i), (char[]){(char)('a' + i), '\0'});
	message->priority = 7;
	message->timestamp = 1234567;
	message->delivery_mode = 1;
	mqfs_headers_set_string(&message->headers, "h", "v");

	copy = mqfs_message_copy(message);
	assert_non_null(copy);
	assert_ptr_equal(copy->body, message->body);
	assert_int_equal(atomic_load(&copy->body->references), 2);
	for (size_t i = 0; i < STRINGS; i++) {
		assert_string_equal(*string_at(copy, i), *string_at(message, i));
		assert_ptr_not_equal(*string_at(copy, i), *string_at(message, i));
	}
	assert_int_equal(copy->priority, 7);
	assert_int_equal(copy->timestamp, 1234567);
	assert_int_equal(copy->delivery_mode, 1);
	mqfs_headers_set_string(&message->headers, "h", "changed");
	assert_string_equal(mqfs_headers_string(&copy->headers, "h"), "v");

	mqfs_message_free(message); /* the copy lives on alone */
	assert_memory_equal(copy->body->data, "body", 4);
	mqfs_message_free(copy);
}

static void copies_what_is_absent(void **state)
{
	struct mqfs_message *message = mqfs_message_new(), *copy = mqfs_message_copy(message);

	(void)state;
	for (size_t i = 0; i < STRINGS; i++)
		assert_null(*string_at(copy, i));
	assert_int_equal(copy->priority, -1);
	assert_int_equal(copy->headers.count, 0);
	mqfs_message_free(message);
	mqfs_message_free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(body_grows_and_fills_gaps),
	    cmocka_unit_test(body_gap_forgets_what_was_cut),
	    cmocka_unit_test(body_of_many_writes),
	    cmocka_unit_test(body_refuses_what_cannot_fit),
	    cmocka_unit_test(body_is_counted),
	    cmocka_unit_test(new_message_is_empty),
	    cmocka_unit_test(sets_strings),
	    cmocka_unit_test(copies_all_but_the_body),
	    cmocka_unit_test(copies_what_is_absent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
