/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "amqp/kind.h"

#define REFUSED "PRECONDITION_FAILED - inequivalent arg "
#define OF " for queue 'q' in vhost '/': received none but current is "

static enum kind read_one(const char *refusal)
{
	struct kind_probe probe;
	enum kind kind;

	kind_probe_init(&probe);
	assert_true(kind_probe_read(&probe, refusal, &kind));
	return kind;
}

static void the_type_tells(void **state)
{
	(void)state;
	assert_int_equal(read_one(REFUSED
	                          "'x-queue-type' for queue 'q' in vhost '/': received 'mqfs-asks' but current is "
	                          "'quorum'"),
	                 KIND_COUNTS);
	assert_int_equal(read_one(REFUSED "'x-queue-type'" OF "the value 'quorum' of type 'longstr'"), KIND_COUNTS);
	assert_int_equal(read_one(REFUSED
	                          "'x-queue-type' for queue 'quorum' in vhost '/': received the value 'mqfs-asks' "
	                          "of type 'longstr' but current is none"),
	                 KIND_PLAIN);
	assert_int_equal(read_one(REFUSED
	                          "'x-queue-type' for queue 'q' in vhost '/': received 'mqfs-asks' but current is "
	                          "'stream'"),
	                 KIND_PLAIN);
}

static void some_only_classic_queues_have(void **state)
{
	(void)state;
	assert_int_equal(read_one(REFUSED "'x-max-priority'" OF "the value '5' of type 'signedint'"), KIND_PLAIN);
	assert_int_equal(
	    read_one(REFUSED "'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"),
	    KIND_PLAIN);
}

static void others_are_taken_over(void **state)
{
	struct kind_probe probe;
	enum kind kind;

	(void)state;
	kind_probe_init(&probe);
	assert_false(kind_probe_read(&probe, REFUSED "'x-expires'" OF "the value '60000' of type 'signedint'", &kind));
	assert_false(
	    kind_probe_read(&probe, REFUSED "'x-overflow'" OF "the value 'drop-head' of type 'longstr'", &kind));
	assert_false(
	    kind_probe_read(&probe, REFUSED "'x-single-active-consumer'" OF "the value 'true' of type 'bool'", &kind));
	assert_int_equal(probe.table.num_entries, 4);
	assert_memory_equal(probe.arguments[1].key.bytes, "x-expires", 9);
	assert_int_equal(probe.arguments[1].value.value.i64, 60000);
	assert_int_equal(probe.arguments[2].value.value.bytes.len, strlen("drop-head"));
	assert_true(probe.arguments[3].value.value.boolean);
	assert_true(kind_probe_read(&probe, REFUSED "'x-queue-type'" OF "the value 'quorum' of type 'longstr'", &kind));
	assert_int_equal(kind, KIND_COUNTS);
}

static bool reads_overflow(struct kind_probe *probe, const char *refusal, bool expected)
{
	bool refuses;

	return kind_probe_read_overflow(probe, refusal, &refuses) && refuses == expected;
}

#define REFUSES REFUSED "'x-overflow' for queue 'q' in vhost '/': received 'mqfs-asks' but current is 'reject-publish'"

static void overflow_is_asked_for_alike(void **state)
{
	struct kind_probe probe;
	bool refuses;

	(void)state;
	kind_probe_init_overflow(&probe);
	assert_int_equal(probe.table.num_entries, 2);
	/* The answer is neither the kind nor that. */
	assert_false(kind_probe_read_overflow(&probe, REFUSED "'x-max-priority'" OF "the value '5' of type 'signedint'",
	                                      &refuses));
	assert_int_equal(probe.table.num_entries, 3);
	assert_true(reads_overflow(&probe, REFUSES, false));
	assert_false(kind_probe_read_overflow(
	    &probe, REFUSED "'x-max-length-bytes'" OF "the value '5' of type 'signedint'", &refuses));
	assert_true(reads_overflow(&probe, REFUSES, true));
	assert_true(reads_overflow(&probe,
	                           REFUSED "'x-overflow' for queue 'reject-publish' in vhost '/': received the value "
	                                   "'mqfs-asks' of type 'longstr' but current is none",
	                           false));
}

static void unknown_overflow_refuses(void **state)
{
	struct kind_probe probe;

	(void)state;
	kind_probe_init_overflow(&probe);
	assert_true(reads_overflow(&probe, REFUSED "'x-queue-type'" OF "the value 'quorum' of type 'longstr'", true));
	assert_true(
	    reads_overflow(&probe, REFUSED "'durable' for queue 'q': received 'true' but current is 'false'", true));
	assert_true(reads_overflow(&probe, "NOT_FOUND", true));
}

static void it_ends(void **state)
{
	struct kind_probe probe;
	enum kind kind;
	int rounds = 1;

	(void)state;
	kind_probe_init(&probe);
	while (!kind_probe_read(&probe, REFUSED "'x-expires'" OF "the value '1' of type 'signedint'", &kind))
		assert_true(rounds++ < KIND_ARGUMENTS_MAX);
	assert_int_equal(kind, KIND_UNKNOWN);
}

static void odd_texts_say_nothing(void **state)
{
	char text[600];

	(void)state;
	assert_int_equal(read_one(""), KIND_UNKNOWN);
	assert_int_equal(
	    read_one("PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'q' in vhost '/': no such"),
	    KIND_UNKNOWN);
	assert_int_equal(read_one(REFUSED "'x-expires'" OF "none"), KIND_UNKNOWN);
	assert_int_equal(read_one(REFUSED "'x-expires'" OF "the value '1' of ty"), KIND_UNKNOWN);
	assert_int_equal(read_one(REFUSED "'x-expires"), KIND_UNKNOWN);
	memset(text, 'x', sizeof(text));
	memcpy(text, REFUSED "'", strlen(REFUSED "'"));
	strcpy(text + 500, "' but current is none");
	assert_int_equal(read_one(text), KIND_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_type_tells),           cmocka_unit_test(some_only_classic_queues_have),
	    cmocka_unit_test(others_are_taken_over),    cmocka_unit_test(overflow_is_asked_for_alike),
	    cmocka_unit_test(unknown_overflow_refuses), cmocka_unit_test(it_ends),
	    cmocka_unit_test(odd_texts_say_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
