//! Blocks of memory that are small and free lie on shelves, one for each size, until one of that size is wanted: most of what an
//! event allocates, the one before gave back. An allocator that looks for room and puts together what is free again takes a quarter
//! of the core's time.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;

/// Shelves in front of an allocator. There must be one thread.
pub(crate) struct Shelves<A> {
    behind: A,
    shelves: UnsafeCell<[Shelf; SHELVES]>,
}

const SHELVES: usize = 16;
/// By how many octets the blocks of one shelf are larger than those of the one before.
const STEP: usize = 16;
/// What every block is aligned to.
const ALIGN: usize = 8;
/// Blocks on a shelf. Others would be room that is not there for another size.
const BLOCKS_MAX: usize = 8;

struct Shelf {
    first: *mut Free,
    blocks: usize,
}

/// What a block holds while it is free.
struct Free {
    next: *mut Free,
}

impl<A> Shelves<A> {
    pub(crate) const fn new(behind: A) -> Shelves<A> {
        Shelves { behind, shelves: UnsafeCell::new([const { Shelf { first: ptr::null_mut(), blocks: 0 } }; SHELVES]) }
    }
}

/// The number of the shelf for a block, and what a block of it takes.
fn shelf(layout: Layout) -> Option<(usize, Layout)> {
    let number = layout.size().div_ceil(STEP).checked_sub(1)?;
    let block = Layout::from_size_align((number + 1) * STEP, ALIGN).ok()?;
    (number < SHELVES && layout.align() <= ALIGN).then_some((number, block))
}

// Nobody else is on the shelves meanwhile: there is one thread, and what is behind them does not come back. Inlined, both functions
// would make a core a tenth larger, and no faster.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Shelves<A> {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((number, block)) = shelf(layout) else { return unsafe { self.behind.alloc(layout) } };
        let shelf = unsafe { &mut (*self.shelves.get())[number] };
        if shelf.blocks == 0 {
            return unsafe { self.behind.alloc(block) };
        }
        let first = shelf.first;
        shelf.first = unsafe { (*first).next };
        shelf.blocks -= 1;
        first.cast()
    }

    #[inline(never)]
    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        let Some((number, block)) = shelf(layout) else { return unsafe { self.behind.dealloc(address, layout) } };
        let shelf = unsafe { &mut (*self.shelves.get())[number] };
        if shelf.blocks == BLOCKS_MAX {
            return unsafe { self.behind.dealloc(address, block) };
        }
        let first: *mut Free = address.cast();
        unsafe { first.write(Free { next: shelf.first }) };
        shelf.first = first;
        shelf.blocks += 1;
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        match (shelf(layout), shelf(wanted)) {
            (None, None) => unsafe { self.behind.realloc(address, layout, size) },
            (is, wanted) if is == wanted => address,
            _ => unsafe {
                let to = self.alloc(wanted);
                if !to.is_null() {
                    ptr::copy_nonoverlapping(address, to, size.min(layout.size()));
                    self.dealloc(address, layout);
                }
                to
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;
    use std::cell::Cell;

    /// Counts the blocks that were taken and not given back.
    struct Counting(Cell<usize>);

    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            self.0.set(self.0.get() + 1);
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
            self.0.set(self.0.get() - 1);
            unsafe { System.dealloc(address, layout) }
        }
    }

    fn shelves() -> Shelves<Counting> {
        Shelves::new(Counting(Cell::new(0)))
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn a_small_block_is_used_again_for_its_size() {
        let shelves = shelves();
        unsafe {
            let block = shelves.alloc(layout(17, 1));
            shelves.dealloc(block, layout(17, 1));
            let others = [layout(16, 1), layout(33, 1), layout(17, 16)].map(|layout| (shelves.alloc(layout), layout));
            assert!(others.iter().all(|(other, _)| *other != block));
            assert_eq!(shelves.alloc(layout(32, 8)), block);
            assert_eq!(shelves.realloc(block, layout(32, 8), 20), block);
            shelves.dealloc(block, layout(20, 8));
            others.into_iter().for_each(|(other, layout)| shelves.dealloc(other, layout));
        }
        assert_eq!(shelves.behind.0.get(), 3, "one of each of the sizes 16, 32 and 48");
    }

    #[test]
    fn a_shelf_has_an_end() {
        let shelves = shelves();
        unsafe {
            for size in [1, 256, 257] {
                let blocks = [(); 3 * BLOCKS_MAX].map(|()| shelves.alloc(layout(size, 1)));
                blocks.into_iter().for_each(|block| shelves.dealloc(block, layout(size, 1)));
            }
        }
        assert_eq!(shelves.behind.0.get(), 2 * BLOCKS_MAX);
    }

    #[test]
    fn blocks_keep_what_is_written() {
        let shelves = shelves();
        let mut random = 1_u32;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % bound
        };
        let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let holds = |(address, layout, octet): (*mut u8, Layout, u8), octets: usize| {
            assert_eq!(address as usize % layout.align(), 0);
            (0..octets.min(layout.size())).all(|at| unsafe { *address.add(at) } == octet)
        };
        for turn in 0..20_000 {
            let (size, octet) = (1 + below(600), turn as u8);
            match below(3) {
                0 if !blocks.is_empty() => {
                    let block = blocks.swap_remove(below(blocks.len()));
                    assert!(holds(block, usize::MAX));
                    unsafe { shelves.dealloc(block.0, block.1) };
                }
                1 if !blocks.is_empty() => {
                    let (address, old, octet) = blocks.swap_remove(below(blocks.len()));
                    let address = unsafe { shelves.realloc(address, old, size) };
                    let block = (address, layout(size, old.align()), octet);
                    assert!(holds(block, old.size()));
                    unsafe { address.write_bytes(octet, size) };
                    blocks.push(block);
                }
                _ => {
                    let layout = layout(size, 1 << below(5));
                    let address = unsafe { shelves.alloc(layout) };
                    unsafe { address.write_bytes(octet, size) };
                    blocks.push((address, layout, octet));
                }
            }
        }
        for block in blocks {
            assert!(holds(block, usize::MAX));
            unsafe { shelves.dealloc(block.0, block.1) };
        }
        assert!(shelves.behind.0.get() <= SHELVES * BLOCKS_MAX);
    }
}
