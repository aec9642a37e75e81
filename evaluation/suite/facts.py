"""Facts that text teaches: the right word must come before any other answer of its table."""

from yxanul.evaluation.suite.question import Category, table

CAPITALS = """France:Paris, Italy:Rome, Spain:Madrid, Germany:Berlin, Japan:Tokyo, China:Beijing|Peking, Russia:Moscow,
Egypt:Cairo, Greece:Athens, Austria:Vienna, Norway:Oslo, Sweden:Stockholm, Poland:Warsaw, Portugal:Lisbon, Cuba:Havana,
Peru:Lima, Ireland:Dublin, Canada:Ottawa, Hungary:Budapest, Kenya:Nairobi, Chile:Santiago, Finland:Helsinki"""
CONTINENTS = """France:Europe, Germany:Europe, Greece:Europe, Norway:Europe, Poland:Europe, Japan:Asia, China:Asia,
India:Asia, Vietnam:Asia, Mongolia:Asia, Nepal:Asia, Kenya:Africa, Nigeria:Africa, Ghana:Africa, Morocco:Africa,
Ethiopia:Africa, Canada:North America, Mexico:North America, Brazil:South America, Peru:South America,
Chile:South America"""
LANGUAGES = """Brazil:Portuguese, Mexico:Spanish, Austria:German, Japan:Japanese, Italy:Italian, France:French,
Poland:Polish, Greece:Greek, Sweden:Swedish, Turkey:Turkish, Egypt:Arabic, Hungary:Hungarian, Argentina:Spanish,
Portugal:Portuguese, Australia:English, Iran:Persian|Farsi, Vietnam:Vietnamese, Thailand:Thai, Denmark:Danish,
Russia:Russian"""
ELEMENTS = """hydrogen:H, oxygen:O, carbon:C, nitrogen:N, iron:Fe, gold:Au, silver:Ag, copper:Cu, sodium:Na, helium:He,
lead:Pb, tin:Sn, zinc:Zn, potassium:K, calcium:Ca, chlorine:Cl, neon:Ne, sulfur:S, mercury:Hg, aluminium:Al"""
OPPOSITES = """hot:cold, big:small|little, up:down, fast:slow, light:dark|heavy, open:closed|shut|close, old:young|new,
rich:poor, happy:sad|unhappy, full:empty, wet:dry, hard:soft|easy, high:low, early:late, strong:weak, long:short,
clean:dirty, left:right, near:far, first:last, day:night"""
PLURALS = """child:children, man:men, woman:women, foot:feet, tooth:teeth, mouse:mice, goose:geese,
person:people|persons, leaf:leaves, knife:knives, wolf:wolves, city:cities, box:boxes, baby:babies, potato:potatoes,
life:lives, ox:oxen, church:churches, half:halves, country:countries"""
PASTS = """go:went, see:saw, eat:ate, take:took, come:came, give:gave, write:wrote, run:ran, buy:bought, think:thought,
speak:spoke, begin:began, drink:drank, fly:flew, know:knew, make:made, find:found, break:broke, sing:sang,
teach:taught"""
YOUNG = """dog:puppy, cat:kitten, cow:calf, sheep:lamb, horse:foal|colt|filly, goat:kid, lion:cub, pig:piglet,
duck:duckling, chicken:chick, deer:fawn, goose:gosling, frog:tadpole, bear:cub, kangaroo:joey, swan:cygnet, whale:calf,
donkey:foal, butterfly:caterpillar|larva, elephant:calf"""
COLOURS = """fresh snow:white, grass:green, a ripe banana:yellow, blood:red, a ripe cherry:red, coal:black,
the clear sky:blue, a ripe tomato:red, milk:white, a lemon:yellow, spinach:green, chocolate:brown, a raven:black,
a flamingo:pink, an elephant:grey|gray, a frog:green, a carrot:orange, a strawberry:red, a sunflower:yellow,
a polar bear:white"""
AFTER = """Monday:Tuesday, Tuesday:Wednesday, Wednesday:Thursday, Thursday:Friday, Friday:Saturday, Saturday:Sunday,
Sunday:Monday, January:February, February:March, March:April, April:May, May:June, June:July, July:August,
August:September, September:October, October:November, November:December, December:January, spring:summer,
summer:autumn"""
AUTHORS = """Hamlet:Shakespeare, Macbeth:Shakespeare, Emma:Austen, Oliver Twist:Dickens, War and Peace:Tolstoy,
Don Quixote:Cervantes, Faust:Goethe, The Odyssey:Homer, Frankenstein:Shelley, Dracula:Stoker, Moby Dick:Melville,
Ulysses:Joyce, The Trial:Kafka, Candide:Voltaire, The Raven:Poe, Les Miserables:Hugo, The Iliad:Homer,
Persuasion:Austen, David Copperfield:Dickens, The Divine Comedy:Dante, Anna Karenina:Tolstoy"""

CATEGORIES = [
    Category(name, "facts", table(rows, prompt, answer, cased=name == "elements"))  # "he" is no helium
    for name, rows, prompt, answer in (
        ("capitals", CAPITALS, "What is the capital of {}?", "The capital is {}."),
        ("continents", CONTINENTS, "On which continent is {}?", "It is in {}."),
        ("languages", LANGUAGES, "Which language do most people in {} speak?", "They speak {}."),
        ("elements", ELEMENTS, "What is the chemical symbol of {}?", "{}"),
        ("opposites", OPPOSITES, "What is the opposite of the word {}?", "It is {}."),
        ("plurals", PLURALS, "What is the plural of the word {}?", "{}"),
        ("past tenses", PASTS, "What is the past tense of the verb {}?", "It is {}."),
        ("young animals", YOUNG, "What is the young of this animal called: {}?", "It is called a {}."),
        ("colours", COLOURS, "Which colour is {}?", "It is {}."),
        ("calendar", AFTER, "What comes right after {}?", "{} comes next."),
        ("authors", AUTHORS, "Who wrote {}?", "It was written by {}."),
    )
]
