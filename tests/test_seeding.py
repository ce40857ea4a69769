"""Random numbers by name."""

import torch

from trainables.seeding import derive_seed, generator, seed_generator_of, seeded


def test_equal_names_give_equal_numbers_and_others_do_not() -> None:
    names = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a1")]
    seeds = [derive_seed(*name) for name in names]
    assert seeds == [derive_seed(*name) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    assert derive_seed(3, "order", 7) == 8403337869328738062


def test_generators_of_one_name_are_independent_objects() -> None:
    first, second = generator(0, "x"), generator(0, "x")
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def test_seeding_a_block_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with seeded(5, "weights"):
        inside = torch.rand(1)
    assert torch.equal(torch.rand(1), expected)
    with seeded(5, "weights"):
        assert torch.equal(torch.rand(1), inside)


def test_the_generator_of_one_device_draws_what_it_would_if_all_were_seeded() -> None:
    with seeded(0, "outside"):
        seed_generator_of(torch.device("cpu"), 3, "dropout", 7)
        found = torch.rand(4)
        torch.manual_seed(derive_seed(3, "dropout", 7))
        assert torch.equal(found, torch.rand(4))
