/* SPDX-License-Identifier: MIT */
#include "contract.h"

#include <mqfs/log.h>

/* contract [PATTERN]: runs the tests whose name matches (cmocka's * and ?), or all. */
int main(int argc, char **argv)
{
	static int (*const groups[])(void) = {test_queues, test_publishing, test_messages, test_consuming, test_window,
	                                      test_clocks, test_failing,    test_looking,  test_leases,    test_outbox};
	int failed = 0;

	if (argc > 2 && strcmp(argv[1], "--lease-child") == 0)
		return lease_child(argv[2]);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	mqfs_log_set_level(getenv("MQFS_TEST_DEBUG") ? MQFS_LOG_DEBUG : MQFS_LOG_WARNING);
	contract_open();
	for (size_t i = 0; i < sizeof(groups) / sizeof(*groups); i++)
		failed += groups[i]() != 0;
	contract_close();
	return failed > 0;
}
